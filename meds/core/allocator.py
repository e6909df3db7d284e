"""Keeps memory that is freed with the process while a network trains on a processor."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

# From glibc's malloc.h, and the values that its own thresholds end at once large blocks have been freed.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER, _USUAL_MMAP_MAX, _LARGEST_MMAP_THRESHOLD = -1, 65536, 2**25


@contextmanager
def freed_memory_stays() -> Iterator[None]:
    """Within it glibc serves tensors of any size from memory that earlier ones have left; elsewhere it does nothing.

    A training step makes and frees the same large tensors again and again. By itself glibc returns those of 32 MiB and
    more to the system at once, and the system clears every page of the next one. What was kept is given back at the
    end.
    """
    malloc = _malloc()
    if malloc is None:
        yield
        return
    option, trim = malloc
    option(_MMAP_MAX, 0)
    option(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        option(_MMAP_MAX, _USUAL_MMAP_MAX)
        option(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        option(_TRIM_THRESHOLD, 2 * _LARGEST_MMAP_THRESHOLD)
        trim(0)


@cache
def _malloc() -> tuple[Callable[[int, int], int], Callable[[int], int]] | None:
    """glibc's `mallopt` and `malloc_trim`, None where malloc is another one."""
    if not sys.platform.startswith("linux"):
        return None
    process = ctypes.CDLL(None)
    if not hasattr(process, "gnu_get_libc_version") or not hasattr(process, "malloc_trim"):
        return None
    return process.mallopt, process.malloc_trim
