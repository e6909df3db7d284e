"""Freed memory stays with the process for a while, and is given back afterwards."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from meds.core import allocator
from meds.core.allocator import freed_memory_stays

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own allocator")
MIB = 2**20


def resident() -> int:
    """Bytes of memory that the process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def use(mib: int) -> int:
    """Make and free a tensor; how much more the process holds afterwards than before."""
    before = resident()
    tensor = torch.ones(mib * MIB // 4)
    assert resident() - before > 0.9 * mib * MIB
    del tensor
    return resident() - before


def a_large_tensor() -> None:
    assert use(128) < 16 * MIB
    before = resident()
    with freed_memory_stays():
        assert use(128) > 100 * MIB
    assert resident() - before < 32 * MIB
    assert use(128) < 16 * MIB


def an_error() -> None:
    def fails() -> None:
        with freed_memory_stays():
            assert use(128) // 0

    before = resident()
    with pytest.raises(ZeroDivisionError):
        fails()
    assert resident() - before < 32 * MIB


@glibc
@pytest.mark.parametrize("work", [a_large_tensor, an_error])
def test_freed_memory_stays_within_and_goes_at_the_end(work: Callable[[], None]) -> None:
    # In a process of its own: what other tests have left would serve the tensor.
    code = f"import test_allocator; test_allocator.{work.__name__}()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    allocator._malloc.cache_clear()
    monkeypatch.setattr(sys, "platform", "darwin")
    yield
    allocator._malloc.cache_clear()


@pytest.mark.usefixtures("elsewhere")
def test_with_another_allocator_nothing_happens() -> None:
    with freed_memory_stays():
        assert allocator._malloc() is None
