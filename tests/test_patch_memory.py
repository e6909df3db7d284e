"""A memory of patches: exact neighbours, rows that give way, and who stands in for an image's own patches."""

from __future__ import annotations

import pytest
import torch

from meds.patch_memory.memory import PatchMemory
from meds.patch_memory.stand_ins import stand_ins


@pytest.mark.parametrize("contents", [[0, 1, 2, 3, 4], [0, 1, 2, 0, 1]])
@pytest.mark.parametrize("kept", [None, 2, 0])
def test_stand_ins_are_nearest_patches_of_other_images_or_what_covers_these(
    kept: int | None, contents: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meds.patch_memory.stand_ins._BLOCK_ELEMENTS", 100)
    points = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([3, 22, 11, 12, 39, 20, 28])
    weights = None
    if kept is not None:
        weights = torch.zeros(40)
        weights[8 * kept : 8 * kept + 8] = torch.linspace(0.5, 1.5, 8)
    factors = torch.ones(40) if weights is None else weights

    def gap(one: int, other: int) -> float:
        return float((points[one] - points[other]).norm())

    def shown(place: int) -> int:
        return contents[place // 8]

    picks = positions.tolist()
    radius = float(factors[picks[-1]]) * min(gap(picks[-1], pick) for pick in picks[:-1])
    covered = 0
    for pick, found in zip(picks, stand_ins(points, positions, torch.tensor(contents), weights).tolist(), strict=True):
        allowed = [i for i in range(40) if shown(i) != shown(pick)]
        welcome = [i for i in allowed if factors[i] > 0] or allowed
        nearest = min(welcome, key=lambda i: gap(i, pick))
        covering = min((i for i in picks if shown(i) != shown(pick)), key=lambda i: gap(i, nearest))
        covers = float(factors[nearest]) * gap(covering, nearest) <= radius
        covered += covers
        assert found == (covering if covers else nearest)
    assert kept is not None or 0 < covered < len(picks)


def test_a_memory_of_one_image_never_stands_in_for_it() -> None:
    points = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    for weights in (None, torch.cat([torch.ones(8), torch.zeros(8)])):
        found = stand_ins(points, torch.tensor([0, 3, 5]), torch.tensor([0, 1]), weights)
        assert bool((found >= 8).all())


def test_small_distances_are_not_lost_among_large_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meds.patch_memory.memory._BLOCK_ELEMENTS", 2000)
    generator = torch.Generator().manual_seed(0)
    vectors = 100 + torch.randn(50, 64, generator=generator)
    queries = vectors[:20] + 1e-3 * torch.randn(20, 64, generator=generator)
    squared, rows = PatchMemory(vectors).nearest(queries)
    assert rows[:, 0].tolist() == list(range(20))
    torch.testing.assert_close(squared[:, 0], (queries - vectors[:20]).square().sum(dim=1), rtol=1e-6, atol=0)


def test_replaced_rows_come_back() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, other = torch.randn(9, 4, generator=generator), torch.randn(2, 4, generator=generator)
    memory, rows = PatchMemory(vectors.clone(), torch.arange(9.0)), torch.tensor([3, 7])
    before = memory.nearest(other, 9)
    with memory.replaced(rows, other, torch.tensor([20.0, 30.0])):
        assert memory.nearest(other)[1][:, 0].tolist() == [3, 7]
        assert memory.weights[rows].tolist() == [20.0, 30.0]
    assert memory.vectors.equal(vectors)
    assert memory.weights.tolist() == list(range(9))
    assert all(after.equal(values) for after, values in zip(memory.nearest(other, 9), before, strict=True))
