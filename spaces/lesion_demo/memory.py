"""Memory that images took goes back to the system, so that a page that runs for weeks stays as small as it began."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
BLOCK = 128 * 1024  # bytes


def give_memory_back() -> None:
    """Have glibc ask the system for every block of 128 kB and more, and return it when it is freed.

    By default it raises that limit, up to 32 MB, each time it has freed such a block, and keeps the pieces of hundreds
    of images between others. Where there is no glibc nothing changes.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, BLOCK)
        mallopt(M_MMAP_THRESHOLD, BLOCK)
