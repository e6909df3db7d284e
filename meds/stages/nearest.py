"""Finds, for every query patch, the most similar patch in each candidate image."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Products of this many elements stay in a processor's cache until they have been looked through.
_BLOCK_ELEMENTS = {"cpu": 2**22, "cuda": 2**27}
_GATHER_ELEMENTS = 2**23
# The coarse search may order close images wrongly; so many more than wanted are compared exactly.
_MARGIN = 8
# Rounding to bf16 makes a vector longer by at most 1/512, so that no coarse cosine comes up to this.
_ABOVE_ANY_COSINE = 1 + 2**-7
# Columns of a product whose number is no multiple of this take twice as long.
_WIDTH = 32
# What is kept of products for images whose turn comes later may take this share of the vectors' own memory.
_KEPT_SHARE = 0.35

SideBySide = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


@dataclass(frozen=True)
class Nearest:
    """The most similar patch of every image, for each of Q query patches.

    Attributes:
        cosines: [Q, n]; in bf16 and less a constant if the search was coarse, else float32.
        places: the patch's number in its image, an integer type [Q, n].
    """

    cosines: Tensor
    places: Tensor


class PatchIndex:
    """The patches of candidate images, searched coarsely in bf16 and compared exactly in float32.

    Args:
        vectors: unit vectors float32 [n, P, C].
        coarse: whether the search itself runs in bf16 (fast where the hardware multiplies it natively).
    """

    def __init__(self, vectors: Tensor, coarse: bool) -> None:
        self.count, self.patches, channels = vectors.shape
        self._vectors, self._coarse = vectors, coarse
        self._exact = vectors.reshape(-1, channels)
        elements = _BLOCK_ELEMENTS.get(vectors.device.type, _BLOCK_ELEMENTS["cpu"])
        # The answers for a block take a share of the vectors' memory that is the block's length over the channels.
        largest = min(elements // self.patches**2, channels // 16)
        self._images_in_block = min(self.count, max(1, largest))

    @cached_property
    def _search(self) -> Tensor:
        """All vectors as the search takes them; the search of an index in itself does without this copy."""
        return self._prepared(self._exact)

    def _prepared(self, vectors: Tensor) -> Tensor:
        return _padded_to_bf16(vectors) if self._coarse else vectors

    def nearest(self, query: Tensor) -> Nearest:
        """The most similar patches to the patches of one image, [Q, C]."""
        wanted = self._prepared(query)
        cosines = torch.empty(len(query), self.count, dtype=wanted.dtype, device=query.device)
        places = torch.empty(len(query), self.count, dtype=torch.int64, device=query.device)
        for start in range(0, self.count, self._images_in_block):
            stop = min(start + self._images_in_block, self.count)
            products = _products(wanted, self._search[start * self.patches : stop * self.patches])
            best = _largest(products.view(len(query), stop - start, self.patches))
            cosines[:, start:stop], places[:, start:stop] = best
        return Nearest(cosines, places)

    def own_nearest(self, side_by_side: SideBySide) -> Iterator[list[tuple[int, Nearest]]]:
        """(position, most similar patches) for each image of the index itself, in order, some images at a time.

        Two images are multiplied once: the rows of the product answer for one of them, its columns for the other,
        whose answer is kept until its turn comes. What is kept at a time takes at most a third of the memory of the
        vectors; where the whole would take more, the images are cut into bands, and only images of one band share
        their products. `side_by_side(work, items)` yields the results of independent pieces of work, in order.
        """
        kept: dict[int, list[tuple[int, Nearest]]] = defaultdict(list)
        for band in _bands(self.count, self._largest_band()):
            for start in range(band.start, band.stop, self._images_in_block):
                block = range(start, min(start + self._images_in_block, band.stop))
                found = self._block_nearest(block, band, kept, side_by_side)
                yield list(zip(block, found, strict=True))

    def _block_nearest(
        self, block: range, band: range, kept: dict[int, list[tuple[int, Nearest]]], side_by_side: SideBySide
    ) -> list[Nearest]:
        """The answers for a block's images; those for later images of the band are added to `kept`."""
        rows = self._prepared(self._vectors[block.start : block.stop].flatten(0, 1))
        place_type = torch.int16 if self.patches < 2**15 else torch.int32
        cosines = rows.new_empty(len(block), self.patches, self.count)
        places = torch.empty(cosines.shape, dtype=place_type, device=rows.device)

        def multiply(other: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
            # Inside the block, a product with a later image comes when it is that image's turn.
            images = min(len(block), other - block.start + 1) if other in band else len(block)
            products = _products(rows[: images * self.patches], self._prepared(self._vectors[other]))
            products = products.view(images, self.patches, self.patches)
            below = _largest_in_columns(products) if other in band else None
            return _largest(products), below

        others = [other for other in range(self.count) if other not in band or other >= block.start]
        for other, (mine, below) in zip(others, side_by_side(multiply, others), strict=True):
            cosines[: len(mine[0]), :, other], places[: len(mine[1]), :, other] = mine
            if below is not None:
                kept[other].append((block.start, Nearest(below[0], below[1].to(place_type))))
        for number, position in enumerate(block):
            for start, found in kept.pop(position, []):
                stop = start + len(found.cosines)
                cosines[number, :, start:stop], places[number, :, start:stop] = found.cosines.T, found.places.T
        return [Nearest(*both) for both in zip(cosines, places, strict=True)]

    def _largest_band(self) -> int:
        """Images in a band: half-way through it, a quarter of the square of their number waits for its turn."""
        allowed = self._exact.shape[1] * self._exact.element_size() * self.count * _KEPT_SHARE
        answer = 4 if self._coarse else 6
        return max(self._images_in_block, math.isqrt(int(4 * allowed / answer)))

    def best_images(
        self, query: Tensor, nearest: Nearest, count: int, excluded: int | None = None, exactly: int | None = None
    ) -> Tensor:
        """Largest cosines to the `count` most similar images, descending: [Q, C] -> [Q, count] float32.

        For each image the most similar patch counts. `excluded` is an image that is passed over. Cosines of the
        first `exactly` (all by default) are those of float32 vectors; after a coarse search the others are off by
        about 0.4 % of their distance.
        """
        cosines = nearest.cosines.clone()
        if excluded is not None:
            cosines[:, excluded] = -math.inf
        if not self._coarse:
            return cosines.topk(count, dim=1).values
        found = cosines.topk(min(count + _MARGIN, self.count), dim=1)
        compared = min((count if exactly is None else exactly) + _MARGIN, found.values.shape[1])
        values = found.values.float() + _ABOVE_ANY_COSINE
        images = found.indices[:, :compared]
        values[:, :compared] = self._compare(query, self._rows(nearest.places.gather(1, images), images))
        if excluded is not None:
            values[found.indices == excluded] = -math.inf
        return values.topk(count, dim=1).values

    def every_image(self, query: Tensor, nearest: Nearest) -> Tensor:
        """Largest cosine with each image: [Q, C] -> [Q, n] float32."""
        if not self._coarse:
            return nearest.cosines
        return self._compare(query, self._rows(nearest.places, torch.arange(self.count, device=query.device)))

    def _rows(self, places: Tensor, images: Tensor) -> Tensor:
        """Rows of patches among those of all images, int64."""
        return places.long() + images * self.patches

    def _compare(self, query: Tensor, rows: Tensor) -> Tensor:
        """Cosines in float32 of each query [Q, C] with the patches in rows [Q, K]."""
        compare = _compare_on_cpu if query.device.type == "cpu" else _compare_in_blocks
        return compare(self._exact, query, rows)


def _bands(count: int, largest: int) -> Iterator[range]:
    """`count` images in as few bands of nearly equal length as `largest` allows."""
    bands = math.ceil(count / largest)
    for band in range(bands):
        yield range(count * band // bands, count * (band + 1) // bands)


def _products(rows: Tensor, columns: Tensor) -> Tensor:
    """Products of unit vectors [R, C] and [S, C] -> [R, S]; less a constant, and negative, in bf16.

    A result in bf16 is rounded in proportion to its size, so cosines near 1, the ones that matter, would differ by
    steps of 0.004. The constant a little above 1 is taken away before the rounding and makes all results small.
    """
    if rows.dtype != torch.bfloat16:
        return rows @ columns.T
    result = torch.full((len(rows), len(columns)), -_ABOVE_ANY_COSINE, dtype=rows.dtype, device=rows.device)
    return torch.addmm(result, rows, columns.T, out=result)


def _largest(products: Tensor) -> tuple[Tensor, Tensor]:
    """Largest values of the last dimension and where they are; values in bf16 must be negative."""
    if products.device.type != "cpu" or products.dtype != torch.bfloat16:
        best = products.max(dim=-1)
        return best.values, best.indices
    # Negative floating-point numbers are ordered backwards as integers, and NumPy finds the smallest integer with
    # vector instructions, four times as fast as torch finds the largest number with its place.
    places = torch.from_numpy(products.view(torch.int16).numpy().argmin(axis=-1))
    return products.gather(-1, places[..., None])[..., 0], places


def _largest_in_columns(products: Tensor) -> tuple[Tensor, Tensor]:
    """Largest values of the middle dimension of [n, R, S] and where they are, [n, S]; negative values in bf16."""
    if products.device.type != "cpu" or products.dtype != torch.bfloat16:
        best = products.max(dim=1)
        return best.values, best.indices
    # NumPy is slow where it must step over rows to find a place, but not where only the value is wanted: first the
    # smallest integers of groups of rows, then the best group of a column, then the place in that group.
    images, rows, columns = products.shape
    group = next(size for size in range(math.isqrt(rows), 0, -1) if rows % size == 0)
    numbers, column = np.arange(images)[:, None], np.arange(columns)
    grouped = products.view(torch.int16).numpy().reshape(images, rows // group, group, columns)
    smallest = grouped.min(axis=2)
    best = smallest.argmin(axis=1)
    places = best * group + grouped[numbers, best, :, column].argmin(axis=-1)
    return torch.from_numpy(smallest[numbers, best, column]).view(torch.bfloat16), torch.from_numpy(places)


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


def _padded_to_bf16(vectors: Tensor) -> Tensor:
    """Vectors [N, C] in bf16, filled up with zeros to a multiple of the width that products are fast with."""
    count, channels = vectors.shape
    if channels % _WIDTH == 0:
        return vectors.bfloat16()
    whole = torch.zeros(count, (channels // _WIDTH + 1) * _WIDTH, dtype=torch.bfloat16, device=vectors.device)
    whole[:, :channels] = vectors
    return whole


def best_patches(query: Tensor, pool: Tensor, count: int) -> Tensor:
    """The `count` largest cosines of each query patch with a pool of patches: [Q, C], [N, C] -> [Q, count] float32."""
    import faiss

    index = faiss.IndexFlatIP(pool.shape[1])
    index.add(pool.cpu().numpy())
    cosines, _ = index.search(query.cpu().numpy(), count)
    return torch.from_numpy(cosines).to(query.device)
