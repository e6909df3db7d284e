"""Finds, for every query patch, the most similar patch in each candidate image."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_BLOCK_ELEMENTS = 2**22
_GATHER_ELEMENTS = 2**23
# The coarse search may order close images wrongly; so many more than wanted are compared exactly.
_MARGIN = 8
# Rounding to bf16 makes a vector longer by at most 1/512, so that no coarse cosine comes up to this.
_ABOVE_ANY_COSINE = 1 + 2**-7


class PatchIndex:
    """The patches of candidate images, searched coarsely in bf16 and compared exactly in float32.

    Args:
        vectors: unit vectors float32 [n, P, C].
        coarse: whether the search itself runs in bf16 (fast where the hardware multiplies it natively).
    """

    def __init__(self, vectors: Tensor, coarse: bool) -> None:
        self.count, self.patches, channels = vectors.shape
        self._exact = vectors.reshape(-1, channels)
        self._coarse = coarse
        self._search = _with_column(self._exact, -_ABOVE_ANY_COSINE) if coarse else self._exact

    def best_images(self, query: Tensor, count: int, excluded: int | None = None, exactly: int | None = None) -> Tensor:
        """Largest cosines to the `count` most similar images, descending: [Q, C] -> [Q, count] float32.

        For each image the most similar patch counts. `excluded` is an image that is passed over. Cosines of the
        first `exactly` (all by default) are those of float32 vectors; after a coarse search the others are off by
        about 0.4 % of their distance.
        """
        cosines, places = self._nearest(query)
        if excluded is not None:
            cosines[:, excluded] = -math.inf
        if not self._coarse:
            return cosines.topk(count, dim=1).values
        found = cosines.topk(min(count + _MARGIN, self.count), dim=1)
        compared = min((count if exactly is None else exactly) + _MARGIN, found.values.shape[1])
        values = found.values.float() + _ABOVE_ANY_COSINE
        values[:, :compared] = self._compare(query, places.gather(1, found.indices[:, :compared]))
        if excluded is not None:
            values[found.indices == excluded] = -math.inf
        return values.topk(count, dim=1).values

    def every_image(self, query: Tensor) -> Tensor:
        """Largest cosine with each image: [Q, C] -> [Q, n] float32."""
        cosines, places = self._nearest(query)
        return self._compare(query, places) if self._coarse else cosines

    def _nearest(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Largest cosine, less a constant if coarse, [Q, n], and the row of that patch among all, int64 [Q, n]."""
        wanted = _with_column(query, 1.0) if self._coarse else query
        images = min(self.count, max(1, _BLOCK_ELEMENTS // (len(query) * self.patches)))
        cosines = torch.empty(len(query), self.count, dtype=wanted.dtype, device=query.device)
        places = torch.empty(len(query), self.count, dtype=torch.int64, device=query.device)
        whole = torch.empty(len(query), images * self.patches, dtype=wanted.dtype, device=query.device)
        for start in range(0, self.count, images):
            stop = min(start + images, self.count)
            block = self._search[start * self.patches : stop * self.patches]
            products = torch.mm(wanted, block.T, out=whole if stop - start == images else None)
            best = _largest(products.view(len(query), stop - start, self.patches))
            cosines[:, start:stop], places[:, start:stop] = best
        first = torch.arange(self.count, device=query.device) * self.patches
        return cosines, places + first

    def _compare(self, query: Tensor, places: Tensor) -> Tensor:
        """Cosines in float32 of each query [Q, C] with the patches in rows `places` [Q, K]."""
        compare = _compare_on_cpu if query.device.type == "cpu" else _compare_in_blocks
        return compare(self._exact, query, places)


def _largest(products: Tensor) -> tuple[Tensor, Tensor]:
    """Largest values of the last dimension and where they are; values in bf16 must be negative."""
    if products.device.type != "cpu" or products.dtype != torch.bfloat16:
        best = products.max(dim=-1)
        return best.values, best.indices
    # Negative floating-point numbers are ordered backwards as integers, and NumPy finds the smallest integer with
    # vector instructions, four times as fast as torch finds the largest number with its place.
    places = torch.from_numpy(products.view(torch.int16).numpy().argmin(axis=-1))
    return products.gather(-1, places[..., None])[..., 0], places


def _compare_on_cpu(vectors: Tensor, query: Tensor, places: Tensor) -> Tensor:
    """Query by query, so that the gathered rows are multiplied while they are still in the processor's cache."""
    rows, queries, wanted = vectors.numpy(), query.numpy(), places.numpy()
    result = np.empty(wanted.shape, dtype=np.float32)
    for i, patch in enumerate(queries):
        np.dot(rows[wanted[i]], patch, out=result[i])
    return torch.from_numpy(result)


def _compare_in_blocks(vectors: Tensor, query: Tensor, places: Tensor) -> Tensor:
    """Many queries at once, as an accelerator likes it."""
    result = torch.empty(places.shape, dtype=torch.float32, device=query.device)
    step = max(1, _GATHER_ELEMENTS // (places.shape[1] * query.shape[1]))
    for start in range(0, len(query), step):
        rows = vectors[places[start : start + step].reshape(-1)].view(-1, places.shape[1], query.shape[1])
        products = torch.bmm(rows, query[start : start + step, :, None])
        result[start : start + step] = products[:, :, 0]
    return result


def _with_column(vectors: Tensor, value: float) -> Tensor:
    """The vectors in bf16 with a column of `value` appended, filled up with zeros to a multiple of 32 columns.

    Columns of 1 and -v turn a product of unit vectors into cos - v. A result in bf16 is rounded in proportion to its
    size, so cosines near 1, the ones that matter, would differ by steps of 0.004; with v a little above 1 all results
    are small, and negative. Other widths than multiples of 32 halve the speed of the product.
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
