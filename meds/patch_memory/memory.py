"""A memory of patch vectors with exact nearest neighbours, on whatever device it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_BLOCK_ELEMENTS = 2**23


class PatchMemory:
    """Vectors float32 [M, C], searched by matrix products, and factors of the distances to them [M] if there are any.

    Products find the neighbours, and their distances are then computed from differences: a small distance out of a
    product of long vectors would be mostly rounding.
    """

    def __init__(self, vectors: Tensor, weights: Tensor | None = None) -> None:
        self.vectors, self.weights = vectors, weights
        self._centre = vectors.mean(dim=0)
        self._centred = vectors - self._centre
        self._norms = self._centred.square().sum(dim=1)

    def __len__(self) -> int:
        return len(self.vectors)

    def nearest(self, queries: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
        """The nearest vectors of each query [Q, C]: squared distances float32 [Q, count], ascending, and rows.

        `count` is at most M. Weights do not matter to which are the nearest.
        """
        distances = torch.empty(len(queries), count, device=queries.device)
        rows = torch.empty(len(queries), count, dtype=torch.int64, device=queries.device)
        step = max(1, _BLOCK_ELEMENTS // max(len(self), count * queries.shape[1]))
        for start in range(0, len(queries), step):
            block = queries[start : start + step]
            found = self._coarse(block, count)
            squared = (block[:, None] - self.vectors[found]).square().sum(dim=2)
            order = squared.argsort(dim=1, stable=True)
            distances[start : start + step] = squared.gather(1, order)
            rows[start : start + step] = found.gather(1, order)
        return distances, rows

    @contextmanager
    def replaced(self, rows: Tensor, vectors: Tensor, weights: Tensor | None = None) -> Iterator[None]:
        """For a while other vectors [R, C], with their weights, stand in these rows."""
        kept = self.vectors[rows]
        kept_weights = None if self.weights is None else self.weights[rows]
        self._write(rows, vectors, weights)
        try:
            yield
        finally:
            self._write(rows, kept, kept_weights)

    def _write(self, rows: Tensor, vectors: Tensor, weights: Tensor | None) -> None:
        self.vectors[rows] = vectors
        self._centred[rows] = vectors - self._centre
        self._norms[rows] = self._centred[rows].square().sum(dim=1)
        if self.weights is not None and weights is not None:
            self.weights[rows] = weights

    def _coarse(self, queries: Tensor, count: int) -> Tensor:
        """Rows of the nearest vectors [Q, count]; what is the same for all vectors is left out of their distances."""
        partial = torch.addmm(self._norms, queries - self._centre, self._centred.T, alpha=-2)
        if count == 1:
            return partial.min(dim=1, keepdim=True).indices
        return partial.topk(count, dim=1, largest=False).indices
