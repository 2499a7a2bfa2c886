"""Where a process of a distillation begins: `python -m torch.distributed.run ... -m opsd_core.training.parallel.entry FOLDER`.

It watches its starter before anything heavy is imported, and ends at once when that has ended, however it ended.
"""

import os
import select
import signal
import sys
import threading
from pathlib import Path

_LOOK_EVERY_MS = 1000


def end_with_starter(pipe: Path) -> None:
    """End this process when nobody holds the writing end of `pipe` any more, nor did when it was opened."""
    reader, waiting = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), select.poll()
    waiting.register(reader, select.POLLIN)  # the end of a writer (POLLHUP) is always told, if it was there before
    while _is_held(reader):
        waiting.poll(_LOOK_EVERY_MS)
    os.kill(os.getpid(), signal.SIGKILL)


def _is_held(reader: int) -> bool:
    try:
        return bool(os.read(reader, 1))  # nothing at all = no writer
    except BlockingIOError:
        return True


def begin(folder: Path) -> None:
    """Watch, and train."""
    threading.Thread(target=end_with_starter, args=(folder / "alive",), daemon=True).start()
    from opsd_core.training.parallel.worker import main

    main(folder)


if __name__ == "__main__":
    begin(Path(sys.argv[1]))
