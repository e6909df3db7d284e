"""Marks a folder as used by this process, so that no other process clears it away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

_PREFIX = ".in-use-"
_numbers = count()


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Mark the folder while the block runs; a process that is killed leaves no valid mark behind."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
    with FileLock(mark):
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)


def used_by_others(folder: Path) -> bool:
    """Whether another process has marked the folder; marks of processes that are gone are removed."""
    for mark in folder.glob(f"{_PREFIX}*"):
        if mark.name.startswith(f"{_PREFIX}{os.getpid()}-"):
            continue
        if is_locked(mark):
            return True
        mark.unlink(missing_ok=True)
    return False


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock file, or might: it cannot be opened."""
    try:
        with FileLock(path, timeout=0):
            return False
    except (Timeout, OSError):
        return True
