"""The memory of InReaCh: all patches of the channels that were kept, searched without approximation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_BLOCK = 4096


class PatchMemory:
    """Vectors float32 [M, C] and the number of the image that each came from, int64 [M], ascending."""

    def __init__(self, vectors: Tensor, owners: Tensor) -> None:
        self.vectors, self.owners = vectors, owners
        self._centre = vectors.mean(dim=0)
        self._centred = vectors - self._centre
        self._norms = self._centred.square().sum(dim=1)

    def __len__(self) -> int:
        return len(self.vectors)

    def squared_distances(self, patches: Tensor, without: Sequence[int] = ()) -> Tensor:
        """Squared distance of each patch [P, C] to the nearest vector, [P].

        `without` are images whose patches are passed over; infinity if there are no others.
        """
        passed_over = [self._rows_of(image) for image in without]
        best = torch.full((len(patches),), torch.inf, device=patches.device)
        found = torch.zeros(len(patches), dtype=torch.int64, device=patches.device)
        queries = patches - self._centre
        for start in range(0, len(self), _BLOCK):
            stop = min(start + _BLOCK, len(self))
            partial = torch.addmm(self._norms[start:stop], queries, self._centred[start:stop].T, alpha=-2)
            for first, end in passed_over:
                partial[:, max(first - start, 0) : max(end - start, 0)] = torch.inf
            nearest = partial.min(dim=1)
            better = nearest.values < best
            best = torch.where(better, nearest.values, best)
            found = torch.where(better, nearest.indices + start, found)
        # The search drops the patch's own length and cancels digits; the distance is computed again from scratch.
        exact = (self.vectors[found] - patches).square().sum(dim=1)
        return torch.where(best.isinf(), best, exact)

    def _rows_of(self, image: int) -> tuple[int, int]:
        wanted = torch.tensor([image, image + 1], device=self.owners.device)
        first, end = torch.searchsorted(self.owners, wanted).tolist()
        return int(first), int(end)
