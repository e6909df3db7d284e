"""Features that an accelerator holds on to: the same bits as from the cache, within a limit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from meds.core.device_features import DeviceFeatures, as_batch
from meds.core.feature_cache import FeatureCache
from meds.core.runtime import Runtime

DIGESTS = [f"{number:064x}" for number in range(6)]
MAP_BYTES = 2 * 3 * 4 * 4


class CountingCache(FeatureCache):
    """Notes which images are read from disk."""

    def read(self, digests, layer):
        self.reads.extend((digest, layer) for digest in digests)
        return super().read(digests, layer)


@pytest.fixture
def cache(tmp_path: Path) -> CountingCache:
    cache = CountingCache(tmp_path, "backbone", 2**30)
    cache.reads = []
    maps = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    maps[5] *= 1e6  # does not fit into half precision
    cache.write(DIGESTS[:5], "block1", maps[:5])
    cache.write(DIGESTS[5:], "block1", maps[5:])
    return cache


def features(cache: FeatureCache, limit: int | None) -> DeviceFeatures:
    return DeviceFeatures(cache, Runtime("cpu", "fp32", 1), limit)


@pytest.mark.parametrize("limit", [None, 0, 2 * MAP_BYTES, 2**20])
def test_whatever_is_held_the_batch_is_the_cache_s(cache: CountingCache, limit: int | None) -> None:
    held = features(cache, limit)
    for rows in ([0, 1], [1, 0, 2], [3, 3, 0], [4, 5, 1], [5], [0, 1, 2, 3, 4, 5]):
        wanted = [DIGESTS[row] for row in rows]
        assert torch.equal(as_batch(held.fetch(wanted, "block1")), cache.read(wanted, "block1").float())


def test_what_is_held_is_read_from_disk_once(cache: CountingCache) -> None:
    held = features(cache, 2**20)
    for _ in range(3):
        held.fetch(DIGESTS[:3], "block1")
    held.fetch(DIGESTS[:5], "block1")
    assert cache.reads == [(digest, "block1") for digest in DIGESTS[:5]]


def test_a_batch_beyond_the_limit_is_read_each_time(cache: CountingCache) -> None:
    held = features(cache, 3 * MAP_BYTES)
    held.fetch(DIGESTS[:2], "block1")
    for _ in range(2):
        held.fetch(DIGESTS[2:4], "block1")
        held.fetch(DIGESTS[:2], "block1")
    assert [DIGESTS.index(digest) for digest, _ in cache.reads] == [0, 1, 2, 3, 2, 3]


def test_a_processor_holds_nothing(cache: CountingCache) -> None:
    held = features(cache, None)
    for _ in range(2):
        held.fetch(DIGESTS[:2], "block1")
    assert len(cache.reads) == 4
