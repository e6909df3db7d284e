"""Finds, for every query patch, the most similar patch in each candidate image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Products of this many elements stay in a processor's cache until they have been looked through.
_BLOCK_ELEMENTS = {"cpu": 2**21, "cuda": 2**27}
_GATHER_ELEMENTS = 2**23
# The coarse search may order close images wrongly; so many more than wanted are compared exactly.
_MARGIN = 8
# Products are lowered by this, more than their rounding in float32, so that all of them are negative.
_BELOW_ZERO = 2**-17
_EXTRA_COLUMNS = 5
# Vectors whose number of columns is no multiple of this take twice as long to multiply.
_WIDTH = 32
# Vectors are brought to bf16 in blocks of so many elements, whose float32 copies are small beside all vectors.
_CONVERTED_ELEMENTS = 2**20


@dataclass(frozen=True)
class Nearest:
    """The most similar patch of every image, for each of Q query patches.

    Attributes:
        cosines: [Q, n]; in bf16 and less 1 if the search was coarse, else float32.
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
        self.vectors, self.coarse = vectors, coarse
        self._exact = vectors.reshape(-1, channels)
        elements = _BLOCK_ELEMENTS.get(vectors.device.type, _BLOCK_ELEMENTS["cpu"])
        # The answers for a block take a share of the vectors' memory that is the block's length over the channels.
        largest = min(elements // self.patches**2, channels // 16)
        self.images_in_block = min(self.count, max(1, largest))
        self._buffers: list[Tensor] = []

    @cached_property
    def _search(self) -> Tensor:
        """All vectors as the search takes them; the search of an index in itself does without this copy."""
        return self.columns(self._exact)

    def prepare(self) -> None:
        """Make what `nearest` takes: before threads ask for it, since each of them would make a copy of its own."""
        _ = self._search

    def rows(self, vectors: Tensor) -> Tensor:
        """Vectors [N, C] as they stand on the left of a product."""
        return _in_bf16(vectors, left=True) if self.coarse else vectors

    def columns(self, vectors: Tensor) -> Tensor:
        """Vectors [N, C] as they stand, transposed, on the right of a product."""
        return _in_bf16(vectors, left=False) if self.coarse else vectors

    def nearest(self, query: Tensor) -> Nearest:
        """The most similar patches to the patches of one image, [Q, C]."""
        wanted = self.rows(query)
        cosines = torch.empty(len(query), self.count, dtype=wanted.dtype, device=query.device)
        places = torch.empty(len(query), self.count, dtype=torch.int64, device=query.device)
        for start in range(0, self.count, self.images_in_block):
            stop = min(start + self.images_in_block, self.count)
            with self.products(wanted, self._search[start * self.patches : stop * self.patches]) as products:
                best = largest(products.view(len(query), stop - start, self.patches))
            cosines[:, start:stop], places[:, start:stop] = best
        return Nearest(cosines, places)

    @contextmanager
    def products(self, rows: Tensor, columns: Tensor) -> Iterator[Tensor]:
        """Products [R, S] of `rows` [R, W] and `columns` [S, W]: cosines; in bf16 less 1, and negative."""
        # Were each product given memory of its own, the allocator would hold on to a multiple of what is ever used.
        buffer = self._buffers.pop() if self._buffers else rows.new_empty(self.images_in_block * self.patches**2)
        try:
            result = buffer[: len(rows) * len(columns)].view(len(rows), len(columns))
            yield torch.mm(rows, columns.T, out=result)
        finally:
            self._buffers.append(buffer)

    def best_images(
        self, query: Tensor, nearest: Nearest, count: int, excluded: Sequence[int] = (), exactly: int | None = None
    ) -> Tensor:
        """Largest cosines to the `count` most similar images, descending: [Q, C] -> [Q, count] float32.

        For each image the most similar patch counts. The images `excluded` are passed over. Cosines of the
        first `exactly` (all by default) are those of float32 vectors; after a coarse search the others are off by
        about 0.4 % of their distance.
        """
        cosines = nearest.cosines.clone()
        if excluded:
            cosines[:, list(excluded)] = -math.inf
        if not self.coarse:
            return cosines.topk(count, dim=1).values
        found = cosines.topk(min(count + _MARGIN, self.count), dim=1)
        compared = min((count if exactly is None else exactly) + _MARGIN, found.values.shape[1])
        values = found.values.float() + 1
        images = found.indices[:, :compared]
        values[:, :compared] = self._compare(query, self._rows(nearest.places.gather(1, images), images))
        if excluded:
            values[torch.isin(found.indices, torch.tensor(excluded, device=query.device))] = -math.inf
        return values.topk(count, dim=1).values

    def every_image(self, query: Tensor, nearest: Nearest) -> Tensor:
        """Largest cosine with each image: [Q, C] -> [Q, n] float32."""
        if not self.coarse:
            return nearest.cosines
        return self._compare(query, self._rows(nearest.places, torch.arange(self.count, device=query.device)))

    def _rows(self, places: Tensor, images: Tensor) -> Tensor:
        """Rows of patches among those of all images, int64."""
        return places.long() + images * self.patches

    def _compare(self, query: Tensor, rows: Tensor) -> Tensor:
        """Cosines in float32 of each query [Q, C] with the patches in rows [Q, K]."""
        compare = _compare_on_cpu if query.device.type == "cpu" else _compare_in_blocks
        return compare(self._exact, query, rows)


def largest(products: Tensor) -> tuple[Tensor, Tensor]:
    """Largest values of the last dimension and where they are; values in bf16 must be negative."""
    if products.device.type != "cpu" or products.dtype != torch.bfloat16:
        best = products.max(dim=-1)
        return best.values, best.indices
    # Negative floating-point numbers are ordered backwards as integers, and NumPy finds the smallest integer with
    # vector instructions, four times as fast as torch finds the largest number with its place.
    places = torch.from_numpy(products.view(torch.int16).numpy().argmin(axis=-1))
    return products.gather(-1, places[..., None])[..., 0], places


def largest_in_columns(products: Tensor) -> tuple[Tensor, Tensor]:
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


def _in_bf16(vectors: Tensor, left: bool) -> Tensor:
    """Unit vectors [N, C] in bf16 with columns that make a product half the negative squared distance of the two.

    Rounding changes the lengths of vectors, and with them their products, by more than near vectors are apart; it
    hardly changes the distances of near vectors. Half the squared distance of unit vectors is 1 less their cosine, and
    a result near 0 keeps its digits when it is rounded to bf16, too. What half the squared length of a rounded vector
    differs from 1/2 stands in two columns, because one number in bf16 has too few digits.
    """
    count, channels = vectors.shape
    whole = torch.zeros(count, _width(channels), dtype=torch.bfloat16, device=vectors.device)
    # Of nearly equal length, because an accelerator adds up the columns of a few rows in another order.
    blocks = max(1, math.ceil(vectors.numel() / _CONVERTED_ELEMENTS))
    for block in range(blocks):
        rows = slice(count * block // blocks, count * (block + 1) // blocks)
        _convert(vectors[rows], whole[rows], left)
    return whole


def _convert(vectors: Tensor, whole: Tensor, left: bool) -> None:
    """Write vectors [N, C] into `whole`, bf16 zeros [N, W], as `_in_bf16` says."""
    channels = vectors.shape[1]
    whole[:, :channels] = vectors
    excess = (1 - whole[:, :channels].float().square().sum(dim=1)) / 2 - (_BELOW_ZERO if left else 0)
    own, other = (1, 3) if left else (3, 1)
    whole[:, channels] = -1 if left else 1
    whole[:, channels + own] = excess
    whole[:, channels + own + 1] = excess - whole[:, channels + own].float()
    whole[:, channels + other : channels + other + 2] = 1


def _width(channels: int) -> int:
    return -(-(channels + _EXTRA_COLUMNS) // _WIDTH) * _WIDTH


def copied_bytes(channels: int, coarse: bool) -> int:
    """Bytes of the copy of a vector that an index holds once `PatchIndex.prepare` has been called."""
    return _width(channels) * torch.bfloat16.itemsize if coarse else 0


class PatchPool:
    """The patches of candidate images in one pool, whichever image they are of: exact search by cosine.

    Args:
        vectors: unit vectors float32 [n, P, C].
    """

    def __init__(self, vectors: Tensor) -> None:
        self._vectors = vectors

    @cached_property
    def _index(self) -> Any:
        import faiss

        index = faiss.IndexFlatIP(self._vectors.shape[2])
        index.add(self._vectors.flatten(0, 1).cpu().numpy())
        return index

    def prepare(self) -> None:
        """Make the index, a copy of all vectors, before threads ask for it side by side."""
        _ = self._index

    def best(self, query: Tensor, count: int, excluded: Sequence[int] = ()) -> Tensor:
        """The `count` largest cosines, descending, of each patch: [Q, C] -> [Q, count] float32.

        The patches of the images `excluded` are passed over.
        """
        patches = self._vectors.shape[1]
        wanted = count + len(excluded) * patches
        cosines, rows = self._index.search(query.cpu().numpy(), min(wanted, self._index.ntotal))
        if excluded:
            cosines[np.isin(rows // patches, excluded)] = -np.inf
        return torch.from_numpy(cosines).topk(count, dim=1).values.to(query.device)
