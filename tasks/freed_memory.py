"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
import sys

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 4 * 1024**2


def give_back() -> None:
    """Let the C library return what it keeps of freed memory, and large arrays as they are freed.

    glibc keeps up to 64 MiB, and every hole below what is in use, for the thread that freed it;
    threads that are started next have their own, and take as much again. Only the size from which
    on arrays have pages to themselves is set, for the whole process, where it would else rise to
    32 MiB. Does nothing where the C library is another.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim"):
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        libc.malloc_trim(0)
