"""The first process of an engine: starts the engine in its own process group and ends the whole group with its parent.

Another environment's Python runs this file, so it needs the standard library alone. Its arguments: a folder and a command. The
parent holds its stdin; when that ends, or the parent is another, the engine is asked to end, and killed with all that it started.
When the engine ends by itself, its status is left in `folder/ended`; the parent may be gone by then.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import time

_PAUSE_S = 0.2
_GRACE_S = 10.0
"""Time to leave no shared memory behind, between being asked to end and being killed."""


def main(folder: str, command: list[str]) -> None:
    """Until the engine or the parent has ended."""
    parent = os.getppid()
    engine = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a signal to the group is the engine's matter
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while engine.poll() is None and os.getppid() == parent:
        ready, _, _ = select.select([0], [], [], _PAUSE_S)
        if ready and not os.read(0, 1):
            break
    if engine.poll() is None:
        _ask_to_end(engine)
    else:
        with open(os.path.join(folder, "ended"), "w") as file:  # noqa: PTH118, PTH123  (may run on any Python 3)
            file.write(str(engine.returncode))
    if os.getppid() != parent:
        shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)  # itself too


def _ask_to_end(engine: "subprocess.Popen[bytes]") -> None:
    engine.terminate()
    deadline = time.monotonic() + _GRACE_S
    while engine.poll() is None and time.monotonic() < deadline:
        time.sleep(_PAUSE_S / 4)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
