"""Finds, for every query patch, the most similar patch in each candidate image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_BLOCK_ELEMENTS = 2**22
_GATHER_ELEMENTS = 2**23
# The coarse search may order close images wrongly; so many more than needed are compared exactly.
_MARGIN = 8


class PatchIndex:
    """The patches of candidate images, searched coarsely in bf16 and compared exactly in float32.

    Args:
        vectors: unit vectors float32 [n, P, C].
        coarse: whether the search itself runs in bf16 (fast where the hardware multiplies it natively);
            the cosines that come out are float32 in either case.
    """

    def __init__(self, vectors: Tensor, coarse: bool) -> None:
        self.count, self.patches, channels = vectors.shape
        self._exact = vectors.reshape(-1, channels)
        self._search = _with_column(self._exact, -1.0) if coarse else self._exact

    def best_images(self, query: Tensor, count: int, excluded: int | None = None) -> Tensor:
        """Largest cosines to the `count` most similar images, descending: [Q, C] -> [Q, count] float32.

        For each image the most similar patch counts. `excluded` is an image that is passed over.
        """
        cosines, places = self._nearest(query)
        if excluded is not None:
            cosines[:, excluded] = -math.inf
        chosen = cosines.topk(min(count + _MARGIN, self.count), dim=1).indices
        exact = self._compare(query, places.gather(1, chosen))
        if excluded is not None:
            exact[chosen == excluded] = -math.inf
        return exact.topk(count, dim=1).values

    def every_image(self, query: Tensor) -> Tensor:
        """Largest cosine with each image: [Q, C] -> [Q, n] float32."""
        return self._compare(query, self._nearest(query)[1])

    def _nearest(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Coarse largest cosine, less one if coarse, [Q, n], and the row of that patch among all, int64 [Q, n]."""
        wanted = query if self._search is self._exact else _with_column(query, 1.0)
        images = min(self.count, max(1, _BLOCK_ELEMENTS // (len(query) * self.patches)))
        cosines = torch.empty(len(query), self.count, dtype=wanted.dtype, device=query.device)
        places = torch.empty(len(query), self.count, dtype=torch.int64, device=query.device)
        whole = torch.empty(len(query), images * self.patches, dtype=wanted.dtype, device=query.device)
        for start in range(0, self.count, images):
            stop = min(start + images, self.count)
            block = self._search[start * self.patches : stop * self.patches]
            products = torch.mm(wanted, block.T, out=whole if stop - start == images else None)
            best = products.view(len(query), stop - start, self.patches).max(dim=2)
            cosines[:, start:stop] = best.values
            places[:, start:stop] = best.indices
        first = torch.arange(self.count, device=query.device) * self.patches
        return cosines, places + first

    def _compare(self, query: Tensor, places: Tensor) -> Tensor:
        """Cosines in float32 of each query [Q, C] with the patches in rows `places` [Q, K]."""
        result = torch.empty(places.shape, dtype=torch.float32, device=query.device)
        step = max(1, _GATHER_ELEMENTS // (places.shape[1] * query.shape[1]))
        for start in range(0, len(query), step):
            rows = self._exact[places[start : start + step].reshape(-1)].view(-1, places.shape[1], query.shape[1])
            products = torch.bmm(rows, query[start : start + step, :, None])
            result[start : start + step] = products[:, :, 0]
        return result


def _with_column(vectors: Tensor, value: float) -> Tensor:
    """The vectors in bf16 with a column of `value` appended, filled up with zeros to a multiple of 32 columns.

    Columns of 1 and -1 turn a product of unit vectors into cos - 1. A result in bf16 is rounded in
    proportion to its size, so cosines near 1, the ones that matter, would differ by steps of 0.004.
    Other widths than multiples of 32 halve the speed of the product.
    """
    count, channels = vectors.shape
    whole = torch.zeros(count, (channels // 32 + 1) * 32, dtype=torch.bfloat16, device=vectors.device)
    whole[:, :channels] = vectors
    whole[:, channels] = value
    return whole


def best_patches(query: Tensor, pool: Tensor, count: int) -> Tensor:
    """The `count` largest cosines of each query patch with a pool of patches: [Q, C], [N, C] -> [Q, count] float32."""
    import faiss

    index = faiss.IndexFlatIP(pool.shape[1])
    index.add(pool.cpu().numpy())
    cosines, _ = index.search(query.cpu().numpy(), count)
    return torch.from_numpy(cosines).to(query.device)
