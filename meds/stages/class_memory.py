"""The training patches of one class as a memory: scores images by their mean distance to its random banks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor, stack

from meds.core.scoring import from_cosine
from meds.stages import memory_estimators as estimators
from meds.stages.nearest import Nearest, PatchIndex, best_patches
from meds.stages.options import MemoryOptions
from meds.stages.own_nearest import SideBySide, own_nearest

# Neighbours that carry so much of a score are compared exactly; what is left may be off by 0.4 % of itself.
EXACT_MASS = 0.99


class ClassMemory:
    """The training patches of one class and the estimator that scores queries against them."""

    def __init__(self, options: MemoryOptions, vectors: Tensor, grid: tuple[int, int], seed: int, coarse: bool) -> None:
        self.options, self.vectors, self.grid, self.seed = options, vectors, grid, seed
        count = len(vectors)
        self.candidates = list(range(count))
        if options.max_images is not None and options.max_images < count:
            chosen = np.random.default_rng(seed).choice(count, options.max_images, replace=False)
            self.candidates = sorted(int(i) for i in chosen)
        self._columns = {position: column for column, position in enumerate(self.candidates)}
        self._pool = vectors if len(self.candidates) == count else vectors[self.candidates].contiguous()
        self._index = PatchIndex(self._pool, coarse)

    def score(self, query: Tensor, own: int | None) -> Tensor:
        """Score map [H, W] of an image's vectors [H*W, C]; `own` is its position among the training images."""
        if self.options.level == "patch":
            return self._map(self._by_patch(query, self._excluded(own)))
        return self._map(self._by_image(query, self._index.nearest(query), self._excluded(own)))

    def score_all(self, side_by_side: SideBySide) -> Iterator[tuple[int, Tensor]]:
        """(position, score map [H, W]) of every training image; candidates of the memories come first.

        `side_by_side(work, items)` yields the results of independent pieces of work, in order.
        """
        others: Sequence[int] = range(len(self.vectors))
        if self.options.level == "image":
            others = [position for position in others if position not in self._columns]
            yield from own_nearest(self._index, side_by_side, self._score_candidate)
        scored = side_by_side(lambda position: self.score(self.vectors[position], position), others)
        yield from zip(others, scored, strict=True)

    def _score_candidate(self, column: int, nearest: Nearest) -> tuple[int, Tensor]:
        position = self.candidates[column]
        return position, self._map(self._by_image(self.vectors[position], nearest, self._excluded(position)))

    def _map(self, scores: Tensor) -> Tensor:
        return scores.float().reshape(self.grid).cpu()

    def _excluded(self, own: int | None) -> int | None:
        return None if self.options.self_match or own is None else self._columns.get(own)

    def _by_image(self, query: Tensor, nearest: Nearest, excluded: int | None) -> Tensor:
        total, count = len(self._pool), len(self._pool) - (excluded is not None)
        if self.options.estimator == "bootstrap":
            distances = from_cosine(self._index.every_image(query, nearest), self.options.distance)
            return estimators.bootstrap_scores(distances, self._banks(total, count), excluded)
        weights = self._weights(total, count)
        exactly = estimators.leading(weights, EXACT_MASS)
        cosines = self._index.best_images(query, nearest, len(weights), excluded, exactly)
        return estimators.exact_scores(from_cosine(cosines, self.options.distance), weights)

    def _by_patch(self, query: Tensor, excluded: int | None) -> Tensor:
        pool = self._pool[estimators.without(range(len(self._pool)), excluded)].flatten(0, 1)
        if self.options.estimator == "bootstrap":
            banks = self._banks(len(pool), len(pool))
            nearest = [from_cosine((query @ pool[bank].T).amax(dim=1), self.options.distance) for bank in banks]
            return stack(nearest).mean(dim=0)
        weights = self._weights(len(pool), len(pool))
        cosines = best_patches(query, pool, len(weights))
        return estimators.exact_scores(from_cosine(cosines, self.options.distance), weights)

    def _weights(self, total: int, count: int) -> Tensor:
        return estimators.order_weights(count, self._size(total, count), self.options.replacement)

    def _banks(self, total: int, count: int) -> Tensor:
        size = self._size(total, count)
        return estimators.draw_banks(count, size, self.options.banks, self.options.replacement, self.seed)

    def _size(self, total: int, count: int) -> int:
        """Candidates in a bank: the ratio of `total`, the class's own image included, out of `count` candidates."""
        return min(estimators.bank_size(self.options.ratio, total, self.options.bank_size), count)
