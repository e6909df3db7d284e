"""Marks a folder as used by this process, so that no other process clears it away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

_PREFIX = ".in-use-"
# Process numbers tell no processes apart that share a home from containers of their own.
_own: set[str] = set()


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Mark the folder while the block runs; a process that is killed leaves no valid mark behind."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f"{_PREFIX}{uuid4().hex}"
    _own.add(mark.name)
    with FileLock(mark):
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)
            _own.discard(mark.name)


def used_by_others(folder: Path) -> bool:
    """Whether another process has marked the folder; marks of processes that are gone are removed."""
    for mark in folder.glob(f"{_PREFIX}*"):
        if mark.name in _own:
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
