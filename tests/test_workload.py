"""Counts of what a run computes, by hand and against the loop that really runs."""

from __future__ import annotations

import pytest
import torch

from meds.core.workload import (
    image_pairs,
    interval_of_enough_passes,
    memory_bytes,
    scoring_bytes,
    scoring_passes,
    selected_share,
)
from meds.plugins.selection import MedianMad, MedianMadOptions


def test_pairs_and_bytes_by_hand() -> None:
    assert image_pairs([3, 10], None) == 6 + 55
    assert image_pairs([3, 10], 4) == 6 + 10 + 24
    assert memory_bytes(2, 5, 7) == 378  # 70 numbers of 5.4 bytes
    assert scoring_bytes(2, 5, 64, 3) == 10 * (64 + 3 * 16)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 3.0])
def test_the_selected_share_is_that_of_normal_scores(factor: float) -> None:
    scores = torch.randn(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    threshold = MedianMad(MedianMadOptions()).threshold(scores, factor)
    assert selected_share(factor) == pytest.approx(float((scores < threshold).double().mean()), abs=3e-3)


def test_passes_by_hand() -> None:
    """Half of 64 images make two batches of 16 an epoch: epochs begin at 0, 2, 4, 6, 8, and the first needs no pass."""
    assert scoring_passes(64, 16, 10, 0.0) == 4
    assert scoring_passes(64, 16, 10, 0.0, interval=2) == 2  # the second and the fourth epoch
    assert scoring_passes(64, 16, 10, 0.0, interval=9) == 1
    assert scoring_passes(64, 16, 2, 0.0) == 0
    assert scoring_passes(10, 16, 3, 0.0) == 2  # an epoch has one batch at least


def test_the_interval_of_enough_passes_by_hand() -> None:
    """With two batches an epoch, 22 iterations are 11 epochs, of which 10 begin with a pass."""
    assert interval_of_enough_passes(64, 16, 2, 0.0) == 1
    assert interval_of_enough_passes(64, 16, 22, 0.0) == 1
    assert interval_of_enough_passes(64, 16, 23, 0.0) == 2
    assert scoring_passes(64, 16, 23, 0.0, interval=2) == 6
    assert interval_of_enough_passes(64, 16, 2000, 0.0) == 100
    assert scoring_passes(64, 16, 2000, 0.0, interval=100) == 10
