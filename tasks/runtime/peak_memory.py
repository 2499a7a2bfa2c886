"""The most memory that this process held during a block: resident memory, or the device's where there is one."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_CUDA = "torch.cuda"
"""Looked up where it is loaded: without torch in the process nothing is on a device."""


@dataclass(eq=False)
class Peak:
    """Bytes at the highest point so far, in blocks inside this one too."""

    bytes: int = 0

    def note(self) -> None:
        """Take what the process has reached since the last reset into account."""
        self.bytes = max(self.bytes, _peak_bytes())


_open: list[Peak] = []


@contextmanager
def measured_peak() -> Iterator[Peak]:
    """Watch a block; `bytes` is final when it ends. Blocks may lie in each other."""
    for outer in _open:
        outer.note()
    _reset()
    peak = Peak()
    _open.append(peak)
    try:
        yield peak
    finally:
        for watched in _open:
            watched.note()
        _open.remove(peak)


def _reset() -> None:
    """Begin to watch again; where the kernel offers no reset, the peak is the process's since its start."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    cuda = sys.modules.get(_CUDA)
    if cuda and cuda.is_available():
        cuda.reset_peak_memory_stats()


def _peak_bytes() -> int:
    """Bytes at the highest point: of the CUDA allocator when it was used, else resident memory (VmHWM of proc(5))."""
    cuda = sys.modules.get(_CUDA)
    if cuda and cuda.is_available() and cuda.max_memory_allocated():
        return cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
