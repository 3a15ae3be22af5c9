"""Memory of tensors on CPUs."""

from __future__ import annotations

import ctypes
import platform

# of malloc.h
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = -1


def keep_freed_memory() -> None:
    """Lets the process keep what its tensors free, for the next ones; only glibc needs telling.

    It gives each large block back to the system and gets it anew, page by page and zeroed, which is
    up to a fifth of a training step on CPUs (``benchmarks/freed_memory.py``).
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, _NEVER)
