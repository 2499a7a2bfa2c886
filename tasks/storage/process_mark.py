"""A mark that tells one process from every other of its machine since boot, and whether that process is gone."""

import os
import re
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

Mark = dict[str, Any]


def process_mark(pid: int | None = None) -> Mark | None:
    """The mark of process `pid` (default: this one); None where /proc cannot say, or when it has ended."""
    pid = os.getpid() if pid is None else pid
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
        start = _start_ticks(pid)
    except (OSError, IndexError):
        return None
    return None if start == "ended" else {"boot": boot, "namespace": namespace, "pid": pid, "start": start}


def is_of_this_machine(mark: Any) -> bool:
    """Whether `mark` was made on this machine, since its last boot, in this PID namespace."""
    mine = process_mark()
    if not isinstance(mark, dict) or mine is None:
        return False
    return (mark.get("boot"), mark.get("namespace")) == (mine["boot"], mine["namespace"])


def process_is_gone(mark: Any) -> bool:
    """Whether `mark` names a process of this machine and PID namespace that no longer runs."""
    if not is_of_this_machine(mark):
        return False
    try:
        return _start_ticks(int(mark["pid"])) != mark["start"]
    except (FileNotFoundError, ProcessLookupError):
        return True
    except (OSError, KeyError, ValueError, TypeError, IndexError):
        return False


_TAG = re.compile(r"([0-9a-f]{8})-(\d+)-(\d+)-")


def process_tag() -> str:
    """This process in a file name, ending in a dash; empty where /proc cannot say."""
    mark = process_mark()
    return f"{_machine(mark)}-{mark['pid']}-{mark['start']}-" if mark else ""


def tagged_process_is_gone(tagged: str) -> bool:
    """Whether a name that begins with a `process_tag` was given by a process of this machine that no longer runs."""
    found, mine = _TAG.match(tagged), process_mark()
    if found is None or mine is None or found[1] != _machine(mine):
        return False
    return process_is_gone({**mine, "pid": int(found[2]), "start": found[3]})


def _machine(mark: Mark) -> str:
    return _short(mark["boot"], mark["namespace"])


@lru_cache(maxsize=1)
def _short(boot: str, namespace: str) -> str:
    return sha256(f"{boot} {namespace}".encode()).hexdigest()[:8]


def _start_ticks(pid: int) -> str:
    # Fields 3 (state) and 22 (start) of /proc/PID/stat; the command name in parentheses before them may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return "ended" if fields[0] in "ZX" else fields[19]
