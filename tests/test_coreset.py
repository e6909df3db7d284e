"""The greedy coreset against the plain loop over picks, and what it does with repeats, weights and bad input."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from meds.api import greedy_coreset, random_projection
from meds.core import coreset


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def literal_coreset(
    features: Tensor,
    ratio: float,
    generator: torch.Generator,
    projection: int | None = None,
    starts: int = 10,
    weights: Tensor | None = None,
    weigh_start: bool = True,
) -> list[int]:
    """One pick after the other, one distance after the other, in Python's float64."""
    rows = features.double()
    if projection is not None and projection < features.shape[1]:
        rows = rows @ random_projection(features.shape[1], projection, generator).double()
    drawn = torch.randperm(len(rows), generator=generator)[:starts].tolist()
    points = rows.tolist()
    factors = [1.0] * len(points) if weights is None else weights.tolist()
    reach = [sum(math.dist(point, points[s]) for s in drawn) / len(drawn) for point in points]
    if weigh_start:
        reach = [value * factor for value, factor in zip(reach, factors, strict=True)]
    picks: list[int] = []
    for _ in range(max(1, int(ratio * len(points) + 1e-9))):
        best = max(range(len(points)), key=lambda i: reach[i])
        if reach[best] <= 0:
            break
        picks.append(best)
        reach = [
            min(value, factor * math.dist(point, points[best]))
            for value, factor, point in zip(reach, factors, points, strict=True)
        ]
    return picks


def clustered(count: int, width: int, seed: int = 0) -> Tensor:
    generator = seeded(seed)
    centres = torch.randn(7, width, generator=generator) * 2
    return centres[torch.randint(7, (count,), generator=generator)] + torch.randn(count, width, generator=generator)


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "one start": {"starts": 1},
    "more starts than rows": {"starts": 999},
    "projected": {"projection": 5},
    "kept or not": {"weights": (torch.rand(160, generator=seeded(3)) > 0.3).float()},
    "kept or not, starting anywhere": {
        "weights": (torch.rand(160, generator=seeded(3)) > 0.9).float(),
        "weigh_start": False,
    },
    "weights of all sizes": {"weights": torch.rand(160, generator=seeded(4)) * 3},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("candidates", [1, 9, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_loop_over_picks(
    case: str, candidates: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coreset, "_CANDIDATES", candidates)
    monkeypatch.setattr(coreset, "_BLOCK_ELEMENTS", 100)
    features, options = clustered(160, 12), {"projection": None, **CASES[case]}
    found = greedy_coreset(features.to(dtype), 0.2, generator=seeded(1), **options)
    assert found.tolist() == literal_coreset(features, 0.2, seeded(1), **options)


def test_every_row_at_a_ratio_of_one() -> None:
    found = greedy_coreset(clustered(50, 4), 1.0, generator=seeded())
    assert sorted(found.tolist()) == list(range(50))


@pytest.mark.parametrize(("ratio", "rows", "count"), [(0.1, 57, 5), (0.001, 57, 1), (0.29, 100, 29)])
def test_the_number_of_picks(ratio: float, rows: int, count: int) -> None:
    assert len(greedy_coreset(clustered(rows, 4), ratio, generator=seeded())) == count


def test_rows_that_repeat_others_are_not_chosen() -> None:
    # Far from the origin, so that distances of equal rows come out of rounding rather than as zero.
    rows = clustered(40, 200) * 3 + 1000
    found = greedy_coreset(rows.repeat(5, 1), 1.0, generator=seeded(), projection=None)
    assert len(found) == 40
    assert sorted((found % 40).tolist()) == list(range(40))


def test_rows_that_are_all_alike_need_no_second() -> None:
    weights = torch.zeros(30)
    weights[[7, 9]] = 1
    assert greedy_coreset(torch.ones(30, 8), 0.5, generator=seeded()).tolist() == [0]
    assert greedy_coreset(torch.ones(30, 8), 0.5, generator=seeded(), weights=weights).tolist() == [7]


def test_rows_without_weight_are_left_out_even_where_too_few_are_left() -> None:
    weights = torch.zeros(100)
    weights[10:40] = 1
    found = greedy_coreset(clustered(100, 6), 0.5, generator=seeded(), weights=weights)
    assert sorted(found.tolist()) == list(range(10, 40))


def test_the_first_pick_may_lack_weight_where_the_start_is_not_weighed() -> None:
    rows = clustered(100, 6)
    rows[17] += 100
    weights = torch.ones(100)
    weights[17] = 0
    options: dict[str, Any] = {"weights": weights, "starts": 3}
    assert 17 not in greedy_coreset(rows, 0.3, generator=seeded(), **options).tolist()
    published = greedy_coreset(rows, 0.3, generator=seeded(), weigh_start=False, **options).tolist()
    assert published.index(17) == 0


def test_the_seed_decides_and_half_precision_is_read() -> None:
    rows = clustered(400, 300).half()
    first, again, other = (greedy_coreset(rows, 0.1, generator=seeded(seed)).tolist() for seed in (5, 5, 6))
    assert first == again != other


def test_progress_tells_of_every_pick() -> None:
    told: list[int] = []
    found = greedy_coreset(clustered(500, 8), 0.3, generator=seeded(), progress=told.append)
    assert sum(told) == len(found) == 150


def test_a_projection_is_as_a_linear_layer_begins() -> None:
    matrix = random_projection(64, 2000, seeded())
    assert matrix.shape == (64, 2000)
    assert matrix.abs().max() <= 1 / 8
    assert matrix.std() == pytest.approx(1 / 8 / math.sqrt(3), rel=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": torch.zeros(0, 3)}, "at least one row"),
        ({"features": torch.zeros(3)}, "at least one row"),
        ({"ratio": 0.0}, "over 0"),
        ({"ratio": 1.5}, "at most 1"),
        ({"starts": 0}, "one starting row"),
        ({"weights": torch.ones(3)}, "one weight"),
        ({"weights": torch.full((9,), -1.0)}, "at least 0"),
        ({"weights": torch.zeros(9)}, "not all of them 0"),
    ],
)
def test_bad_input(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"features": torch.zeros(9, 3), "ratio": 0.5} | changes
    with pytest.raises(ValueError, match=message):
        greedy_coreset(arguments.pop("features"), arguments.pop("ratio"), generator=seeded(), **arguments)
