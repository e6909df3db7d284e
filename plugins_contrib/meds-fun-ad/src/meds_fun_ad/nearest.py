"""Nearest vectors: every distance is compared, and those that count are computed in float32."""

from __future__ import annotations

import torch
from torch import Tensor

_QUERIES = 1024
_VECTORS = 4096
# The search in bf16 may order close neighbours wrongly; so many more than needed are compared again.
_MARGIN = 6


class NearestVectors:
    """Searches vectors float32 [M, D]; `coarse` lets the search, but not the distances, run in bf16."""

    def __init__(self, vectors: Tensor, coarse: bool = False) -> None:
        self._vectors, self._coarse = vectors, coarse
        self._centre = vectors.mean(dim=0)
        self._columns = self._with_norms(vectors, query=False)

    def find(self, queries: Tensor, count: int, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Smallest squared distances of queries [Q, D], ascending, and the rows of those vectors, both [Q, count].

        `own` int64 [Q] is a row that each query passes over. If there are fewer vectors, there are fewer columns.
        """
        available = len(self._vectors) - (own is not None)
        wanted = min(count + (_MARGIN if self._coarse else 0), available)
        places = torch.cat(
            [
                self._search(part, wanted, None if own is None else own[start : start + _QUERIES])
                for start, part in zip(range(0, len(queries), _QUERIES), torch.split(queries, _QUERIES), strict=True)
            ]
        )
        distances = self._distances(queries, places).sort(dim=1, stable=True)
        kept = min(count, available)
        return distances.values[:, :kept], places.gather(1, distances.indices)[:, :kept]

    def _search(self, queries: Tensor, count: int, own: Tensor | None) -> Tensor:
        moved = self._with_norms(queries, query=True)
        values: list[Tensor] = []
        places: list[Tensor] = []
        for start in range(0, len(self._vectors), _VECTORS):
            columns = self._columns[start : start + _VECTORS]
            nearness = moved @ columns.T
            if own is not None:
                inside = ((own >= start) & (own < start + len(columns))).nonzero()[:, 0]
                nearness[inside, own[inside] - start] = -torch.inf
            best = nearness.topk(min(count, len(columns)), dim=1)
            values.append(best.values)
            places.append(best.indices + start)
        chosen = torch.cat(values, dim=1).topk(count, dim=1).indices
        return torch.cat(places, dim=1).gather(1, chosen)

    def _distances(self, queries: Tensor, places: Tensor) -> Tensor:
        found = [
            (self._vectors[rows] - part[:, None]).square().sum(dim=2)
            for part, rows in zip(torch.split(queries, _QUERIES), torch.split(places, _QUERIES), strict=True)
        ]
        return torch.cat(found)

    def _with_norms(self, vectors: Tensor, query: bool) -> Tensor:
        """Moved to the centre and lengthened, so that a query times a vector is minus half their squared distance.

        In bf16 a length is split into a rounded part and the rest, and a result that is near 0 for near vectors
        keeps its digits.
        """
        moved = vectors - self._centre
        half = moved.square().sum(dim=1, keepdim=True) / -2
        rounded = half.bfloat16().float()
        lengths, ones = torch.cat([rounded, half - rounded], dim=1), torch.ones(len(vectors), 2, device=vectors.device)
        longer = torch.cat([moved, lengths, ones] if query else [moved, ones, lengths], dim=1)
        if not self._coarse:
            return longer
        # Widths that are no multiple of 32 halve the speed of a product in bf16.
        filled = -longer.shape[1] % 32
        return torch.nn.functional.pad(longer, (0, filled)).bfloat16()
