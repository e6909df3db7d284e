"""The training patches of one class as a memory: scores images by their mean distance to its random banks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from torch import Tensor, stack

from meds.core.scoring import from_cosine
from meds.stages import memory_estimators as estimators
from meds.stages.nearest import Nearest, PatchIndex, PatchPool
from meds.stages.options import MemoryOptions
from meds.stages.own_nearest import SideBySide, own_nearest

# Neighbours that carry so much of a score are compared exactly; what is left may be off by 0.4 % of itself.
EXACT_MASS = 0.99

# Positions of some images of a class and their unit vectors [n, P, C].
Images = tuple[Sequence[int], Tensor]


def draw_candidates(options: MemoryOptions, count: int, seed: int) -> list[int]:
    """Which of a class's `count` images its memories are drawn from, ascending: all, or `max_images` by the seed."""
    if options.max_images is None or options.max_images >= count:
        return list(range(count))
    chosen = np.random.default_rng(seed).choice(count, options.max_images, replace=False)
    return sorted(int(i) for i in chosen)


class ClassMemory:
    """The patches of one class's candidates and the estimator that scores queries against them.

    Args:
        options: the stage's.
        pool: unit vectors of the candidates, float32 [k, P, C].
        grid: rows and columns (H, W) that an image's patches stand in.
        seed: what banks are drawn by.
        coarse: whether the search runs in bf16.
        candidates: positions of the candidates among the class's images; 0 to k - 1 by default.
        contents: what tells the content of each of the class's images; copies have the same. All differ by default.
    """

    def __init__(
        self,
        options: MemoryOptions,
        pool: Tensor,
        grid: tuple[int, int],
        seed: int,
        coarse: bool,
        candidates: Sequence[int] | None = None,
        contents: Sequence[str] | None = None,
    ) -> None:
        self.options, self.grid, self.seed = options, grid, seed
        self.candidates = list(range(len(pool)) if candidates is None else candidates)
        self._contents = contents
        self._columns: dict[str | int, list[int]] = defaultdict(list)
        for column, position in enumerate(self.candidates):
            self._columns[self._content(position)].append(column)
        self._pool = pool
        self._index = PatchIndex(pool, coarse)
        self._patches = PatchPool(pool)

    def prepare(self) -> None:
        """Make what `score` takes, before threads call it side by side."""
        if self.options.level == "image":
            self._index.prepare()
        elif self.options.estimator == "exact":
            self._patches.prepare()

    def score(self, query: Tensor, own: int | None) -> Tensor:
        """Score map [H, W] of an image's vectors [H*W, C]; `own` is its position among the training images."""
        if self.options.level == "patch":
            return self._map(self._by_patch(query, self._excluded(own)))
        return self._map(self._by_image(query, self._index.nearest(query), self._excluded(own)))

    def score_all(self, side_by_side: SideBySide, others: Iterable[Images] = ()) -> Iterator[tuple[int, Tensor]]:
        """(position, score map [H, W]) of the candidates, and then of the class's `others`, some at a time.

        `side_by_side(work, items)` yields the results of independent pieces of work, in order.
        """
        if self.options.level == "image":
            yield from own_nearest(self._index, side_by_side, self._score_candidate)
        else:
            self.prepare()
            yield from self._score_each(side_by_side, self.candidates, self._pool)
        for positions, vectors in others:
            self.prepare()
            yield from self._score_each(side_by_side, positions, vectors)

    def _score_each(
        self, side_by_side: SideBySide, positions: Sequence[int], vectors: Tensor
    ) -> Iterator[tuple[int, Tensor]]:
        scored = side_by_side(lambda place: self.score(vectors[place], positions[place]), range(len(positions)))
        yield from zip(positions, scored, strict=True)

    def _score_candidate(self, column: int, nearest: Nearest) -> tuple[int, Tensor]:
        position = self.candidates[column]
        return position, self._map(self._by_image(self._pool[column], nearest, self._excluded(position)))

    def _map(self, scores: Tensor) -> Tensor:
        return scores.float().reshape(self.grid).cpu()

    def _content(self, position: int) -> str | int:
        return position if self._contents is None else self._contents[position]

    def _excluded(self, own: int | None) -> Sequence[int]:
        """Columns that may not serve an image: its own and those of its copies, in whose memory it would be as well."""
        if self.options.self_match or own is None:
            return ()
        columns = self._columns.get(self._content(own), [])
        return columns if len(columns) < len(self._pool) else columns[:1]

    def _by_image(self, query: Tensor, nearest: Nearest, excluded: Sequence[int]) -> Tensor:
        total, count = len(self._pool), len(self._pool) - len(excluded)
        if self.options.estimator == "bootstrap":
            distances = from_cosine(self._index.every_image(query, nearest), self.options.distance)
            banks = estimators.passing_over(self._banks(total, count), excluded, total)
            return estimators.bootstrap_scores(distances, banks)
        weights = self._weights(total, count)
        exactly = estimators.leading(weights, EXACT_MASS)
        cosines = self._index.best_images(query, nearest, len(weights), excluded, exactly)
        return estimators.exact_scores(from_cosine(cosines, self.options.distance), weights)

    def _by_patch(self, query: Tensor, excluded: Sequence[int]) -> Tensor:
        images, patches, _ = self._pool.shape
        count = (images - len(excluded)) * patches
        if self.options.estimator == "bootstrap":
            pool = self._pool.flatten(0, 1)
            banks = estimators.passing_over(self._banks(count, count), excluded, images, patches)
            nearest = [from_cosine((query @ pool[bank].T).amax(dim=1), self.options.distance) for bank in banks]
            return stack(nearest).mean(dim=0)
        weights = self._weights(count, count)
        cosines = self._patches.best(query, len(weights), excluded)
        return estimators.exact_scores(from_cosine(cosines, self.options.distance), weights)

    def _weights(self, total: int, count: int) -> Tensor:
        return estimators.order_weights(count, self._size(total, count), self.options.replacement)

    def _banks(self, total: int, count: int) -> Tensor:
        size = self._size(total, count)
        return estimators.draw_banks(count, size, self.options.banks, self.options.replacement, self.seed)

    def _size(self, total: int, count: int) -> int:
        """Candidates in a bank: the ratio of `total`, the class's own image included, out of `count` candidates."""
        return min(estimators.bank_size(self.options.ratio, total, self.options.bank_size), count)
