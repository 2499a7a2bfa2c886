"""Runs a program and its tests, alone: `python -I code_worker.py`, one JSON request on stdin, one JSON answer on stdout.

The process has no network, starts no other, and reads and writes no file but those of an empty folder of its own and, to read, of
Python's library; it is bounded in CPU seconds and memory. It imports the standard library alone. That holds programs that a model
wrote, by mistake or to please a grader; it is no wall against an attacker (SECURITY.md).
"""

import ast
import contextlib
import ctypes
import io
import json
import os
import resource
import sys
import tempfile
import traceback
from types import CodeType
from typing import Any

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_MOST_CHARS = 300
"""Of a failure's words."""
_DENIED = (
    "socket.", "subprocess.", "ctypes.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.kill", "pty.",
    "gc.",
)  # fmt: skip
_CHANGES = (
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate", "shutil.",
)  # fmt: skip
"""Beginnings of the names of Python's audit events: never, and only in the program's own folder."""
PREPARES = (
    ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.AugAssign,
)  # fmt: skip
"""Statements of the tests that make what the others need; every other one passes or fails."""


class DeniedError(PermissionError):
    """The program asked for something that it may not have."""


def _limit(seconds: int, memory: int) -> None:
    """Bounds of the process. The kernel ends it at the hard limit of CPU seconds."""
    bounds = {
        resource.RLIMIT_CPU: seconds, resource.RLIMIT_AS: memory, resource.RLIMIT_FSIZE: 1 << 20, resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
    }  # fmt: skip
    for kind, bound in bounds.items():
        _, hard = resource.getrlimit(kind)
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (bound, bound))


def _leave_network() -> None:
    """Into a network of nothing, where the kernel allows that to a plain user; else only the hook below denies sockets."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).unshare(_CLONE_NEWUSER | _CLONE_NEWNET)


def _guard(folder: str) -> None:
    """Deny, for good, what `_DENIED` names, changes outside `folder`, and files outside it and the library."""
    own = os.path.realpath(folder)
    library = [os.path.realpath(path) for path in {sys.prefix, sys.base_prefix, *sys.path} if path]
    readable = [own, *library, os.devnull, "/dev/urandom"]

    def is_under(path: Any, roots: list[str]) -> bool:
        if isinstance(path, int):
            return True
        real = os.path.realpath(os.fsdecode(path))
        return any(real == root or real.startswith(root + os.sep) for root in roots)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        denied = event.startswith(_DENIED) or (event.startswith(_CHANGES) and not is_under(arguments[0], [own]))
        if event == "open" and arguments[0] is not None:
            denied = not is_under(arguments[0], [own] if _writes(*arguments[1:]) else readable)
        if denied:
            raise DeniedError(f"{event} is not allowed in a graded program")

    sys.addaudithook(hook)


def _writes(mode: str | None, flags: int) -> bool:
    if mode is not None:
        return any(letter in mode for letter in "wax+")
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def run(program: str, tests: str) -> dict[str, Any]:
    """How many checks of `tests` pass after `program`, of how many, and the first failure in words.

    Imports, definitions and assignments prepare the checks below them.
    """
    space: dict[str, Any] = {"__name__": "program"}
    failure = broken = _failure(lambda: compile(program, "program", "exec"), space)
    passed = total = 0
    for node in ast.parse(tests).body:
        is_check = not isinstance(node, PREPARES)
        total += is_check
        found = broken or _failure(lambda node=node: compile(ast.Module([node], []), "tests", "exec"), space)
        passed += is_check and not found
        if found and not failure:
            failure = f"{ast.unparse(node)[:_MOST_CHARS]}: {found}"
    return {"passed": passed, "total": total, "failure": failure}


def _failure(compiled: Any, space: dict[str, Any]) -> str:
    """What executing it raises, in words without addresses; "" when it raises nothing. Its output is dropped."""
    try:
        code: CodeType = compiled()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            exec(code, space)
    except BaseException as error:
        return "".join(traceback.format_exception_only(error)).strip().splitlines()[-1][:_MOST_CHARS]
    return ""


def main() -> None:
    """One request, one answer."""
    request = json.loads(sys.stdin.readline())
    answers = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        _leave_network()
        _limit(request["seconds"], request["memory"])
        _guard(folder)
        answer = run(request["program"], request["tests"])
        os.write(answers, json.dumps({**answer, "token": request["token"]}).encode() + b"\n")


if __name__ == "__main__":
    main()
