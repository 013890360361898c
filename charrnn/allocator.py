"""What becomes of memory that is no longer needed: on Linux it may stay with the process.

A training step takes hundreds of megabytes and frees them, and glibc hands large blocks back to the system each time.
To get them again costs a fault and a zeroed page for every 4 KB: a tenth to a fifth of a step."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let the process keep what it frees, for the next step; say whether the C library takes that request."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
