"""The most memory that this process has held since a given moment: resident memory, or the device's where there is one."""

from contextlib import suppress
from pathlib import Path

import torch


def reset_peak() -> None:
    """Begin a new measurement; where the kernel offers no reset, the peak is that of the whole process."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int:
    """Bytes at the highest point: of the CUDA allocator when it was used, else resident memory (VmHWM of proc(5))."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
