"""The C library's heap while weights come and go: what is freed goes back to the system at once, and leaves no gaps."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_M_MMAP_THRESHOLD = -3
_SMALL, _USUAL = 1 << 20, 32 << 20
"""Bytes from which on an allocation is of pages of its own; _USUAL is where glibc itself ends up."""


@contextmanager
def without_gaps() -> Iterator[None]:
    """Inside, what is freed is given back; afterwards as glibc does it. Nothing where the C library is another one."""
    try:
        library = ctypes.CDLL("libc.so.6")
        library.mallopt, library.malloc_trim  # noqa: B018  (AttributeError where they are not)
    except (OSError, AttributeError):
        yield
        return
    library.mallopt(_M_MMAP_THRESHOLD, _SMALL)
    try:
        yield
    finally:
        library.mallopt(_M_MMAP_THRESHOLD, _USUAL)
        library.malloc_trim(0)
