"""Approximate greedy coreset: few of many feature vectors, chosen so that none is far from all that are kept.

Farthest-point selection in a random projection (PatchCore, Roth et al., CVPR 2022, algorithm 1 and sec. 3.2),
started as the published code starts it: from the mean distance to some random vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# A round draws from the candidates that are farthest from all picks so far; more of them make fewer, dearer rounds.
_CANDIDATES = 1024
_BLOCK_ELEMENTS = 2**20


def random_projection(channels: int, width: int, generator: torch.Generator) -> Tensor:
    """A random matrix float32 [channels, width] on the CPU, uniform in ±1/sqrt(channels).

    That is how the published code draws it: the default weights of a linear layer without bias.
    """
    bound = 1 / math.sqrt(channels)
    return (torch.rand(channels, width, generator=generator) * 2 - 1) * bound


def coreset_size(ratio: float, count: int) -> int:
    """floor(ratio * count), at least one: how many of `count` vectors a coreset keeps, if none repeats another."""
    # A product that should be whole may fall just below it: 0.29 * 100 is 28.999999999999996.
    return max(1, int(ratio * count + 1e-9))


def greedy_coreset(
    features: Tensor,
    ratio: float,
    *,
    generator: torch.Generator,
    projection: int | None = 128,
    starts: int = 10,
    weights: Tensor | None = None,
    weigh_start: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Positions of floor(ratio * n), at least one, of the rows of `features`, in the order in which they are chosen.

    The next is the row with the largest distance to its nearest chosen row; before the first, the distance to a
    row is the mean of those to `starts` random rows. The choice ends early when all that are left repeat a chosen
    row or weigh nothing, so that no row is chosen twice. It is the choice of the plain loop over picks, up to the
    rounding of distances, but most of the work is done for many picks at once: see `_Selection.next_picks`.

    Args:
        features: [n, C] on any device; computed in float64 if it is, else in float32.
        ratio: share of the rows to keep, over 0 and at most 1.
        generator: draws the projection and the starting rows; a CPU generator on every device.
        projection: width of the random projection in which distances are taken; None, or a width that is not
            below C, takes the features as they are.
        starts: number of random rows that the first distances are taken to.
        weights: factors of each row's own distances, [n], at least 0; rows of weight 0 are not chosen
            (the "sampling weight" of SoftPatch's released code).
        weigh_start: whether the starting distances are weighed, too. False is SoftPatch's released code, whose
            first pick may be a row of weight 0.
        progress: called with the number of new picks after each round.

    Returns:
        Positions, int64 [m], m <= max(1, floor(ratio * n)), on the device of `features`.

    Raises:
        ValueError: there are no rows, or ratio, starts or weights are out of range.
    """
    _check(features, ratio, starts, weights)
    points = _projected(features, projection, generator)
    drawn = torch.randperm(len(points), generator=generator)[:starts].to(points.device)
    factors = None if weights is None else weights.to(points)
    selection = _Selection.begin(points, drawn, factors, weigh_start)
    count = coreset_size(ratio, len(points))
    picks: list[Tensor] = []
    missing = count
    while missing:
        fresh = selection.next_picks(missing)
        if not len(fresh):
            break
        selection.lower(fresh)
        picks.append(fresh)
        missing -= len(fresh)
        if progress is not None:
            progress(len(fresh))
    return torch.cat(picks) if picks else _first(points, factors)


def _check(features: Tensor, ratio: float, starts: int, weights: Tensor | None) -> None:
    if features.ndim != 2 or not len(features):
        raise ValueError(f"a coreset needs features [n, C] of at least one row, not {list(features.shape)}")
    if not 0 < ratio <= 1:
        raise ValueError(f"the ratio of a coreset is over 0 and at most 1, not {ratio}")
    if starts < 1:
        raise ValueError(f"a coreset needs at least one starting row, not {starts}")
    if weights is None:
        return
    if weights.shape != features.shape[:1] or not bool((weights >= 0).all()) or not bool((weights > 0).any()):
        raise ValueError("a coreset needs one weight for each row of the features, at least 0 and not all of them 0")


def _first(points: Tensor, weights: Tensor | None) -> Tensor:
    """What stands for rows that are all alike, of which none is far from another."""
    return torch.argmax(torch.ones(len(points), device=points.device) if weights is None else weights).reshape(1)


def _projected(features: Tensor, width: int | None, generator: torch.Generator) -> Tensor:
    points = features if features.dtype == torch.float64 else features.float()
    if width is not None and width < features.shape[1]:
        points = points @ random_projection(features.shape[1], width, generator).to(points)
    # Distances stay what they are and lose fewer digits where the norms are small.
    return points - points.mean(dim=0)


@dataclass
class _Selection:
    """Rows [n, D], their squared norms, their weights, and how far each is from its nearest pick so far (`reach`)."""

    points: Tensor
    norms: Tensor
    weights: Tensor | None
    reach: Tensor

    @classmethod
    def begin(cls, points: Tensor, starts: Tensor, weights: Tensor | None, weigh_start: bool) -> _Selection:
        """Before the first pick: the mean distance of each row to the starting rows."""
        norms = points.square().sum(dim=1)
        self = cls(points, norms, weights, torch.empty_like(norms))
        for rows in self._blocks(len(starts)):
            self.reach[rows] = self._distances(rows, starts).mean(dim=1)
        if weights is not None and weigh_start:
            self.reach *= weights
        return self

    def next_picks(self, most: int) -> Tensor:
        """The next rows that the plain loop would choose, at least one and at most `most`; none if nothing is left.

        Distances to the nearest pick only ever fall. So the loop may run on the rows that are farthest now, alone,
        for as long as its farthest row is at least as far as any row outside was at the beginning.
        """
        count = min(_CANDIDATES, len(self.points))
        farthest = self.reach.topk(min(count + 1, len(self.points)))
        outside = float(farthest.values[count]) if len(farthest.values) > count else 0.0
        candidates = farthest.indices[:count].sort().values
        # The loop over single picks is short work on short vectors, which an accelerator would only slow down.
        reach = self.reach[candidates].cpu().numpy()
        between = self._distances(candidates, candidates)
        if self.weights is not None:
            between = between * self.weights[candidates, None]
        between_rows = between.T.contiguous().cpu().numpy()
        chosen: list[int] = []
        while len(chosen) < most:
            best = int(reach.argmax())
            if reach[best] <= 0 or reach[best] < outside:
                break
            chosen.append(best)
            np.minimum(reach, between_rows[best], out=reach)
            reach[best] = 0
        return candidates[torch.tensor(chosen, dtype=torch.int64, device=candidates.device)]

    def lower(self, picks: Tensor) -> None:
        """Take new picks into account for all rows."""
        for rows in self._blocks(len(picks)):
            found = self._distances(rows, picks, smallest=True)
            if self.weights is not None:
                found = found * self.weights[rows]
            self.reach[rows] = torch.minimum(self.reach[rows], found)
        # Not left to rounding: no row is picked twice.
        self.reach[picks] = 0

    def _blocks(self, columns: int) -> list[slice]:
        step = max(1, _BLOCK_ELEMENTS // columns)
        return [slice(start, start + step) for start in range(0, len(self.points), step)]

    def _distances(self, rows: slice | Tensor, columns: Tensor, smallest: bool = False) -> Tensor:
        """Distances of rows to columns [R, K], or of each row to its nearest column [R]."""
        squared = torch.addmm(self.norms[columns], self.points[rows], self.points[columns].T, alpha=-2)
        norms = self.norms[rows]
        squared = squared.amin(dim=1).add_(norms) if smallest else squared.add_(norms[:, None])
        # Rows that repeat another have a distance of rounding errors, which must not count as far.
        noise = norms * (32 * torch.finfo(squared.dtype).eps)
        squared[squared < (noise if smallest else noise[:, None])] = 0
        return squared.sqrt_()
