"""Freed memory stays with the process for a while, and is given back afterwards."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
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


@glibc
def test_a_large_tensor_s_memory_stays_within_and_goes_at_the_end() -> None:
    assert use(128) < 16 * MIB
    before = resident()
    with freed_memory_stays():
        assert use(128) > 100 * MIB
    assert resident() - before < 32 * MIB
    assert use(128) < 16 * MIB


@glibc
def test_it_is_given_back_after_an_error_too() -> None:
    def fails() -> None:
        with freed_memory_stays():
            assert use(128) // 0

    before = resident()
    with pytest.raises(ZeroDivisionError):
        fails()
    assert resident() - before < 32 * MIB


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
