"""Searches the images of a class in one another: each pair of images is multiplied once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from meds.stages.nearest import Nearest, PatchIndex, largest, largest_in_columns

# What waits for its image's turn may take this share of the vectors' own memory.
_WAITING_SHARE = 0.3

SideBySide = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


def own_nearest(index: PatchIndex, side_by_side: SideBySide) -> Iterator[list[tuple[int, Nearest]]]:
    """(position, most similar patches) for each image of the index itself, in order, some images at a time.

    The rows of a product of two images answer for one of them, its columns for the other, whose answer waits until it
    is that image's turn. Where all that waits would take more memory than a third of the vectors, the images are cut
    into bands, and only images of one band share their products. `side_by_side(work, items)` yields the results of
    independent pieces of work, in order.
    """
    waiting = _Waiting(index)
    for band in _bands(index.count, _largest_band(index)):
        for start in range(band.start, band.stop, index.images_in_block):
            block = range(start, min(start + index.images_in_block, band.stop))
            yield list(zip(block, _search_block(index, block, band, waiting, side_by_side), strict=True))


def _search_block(
    index: PatchIndex, block: range, band: range, waiting: _Waiting, side_by_side: SideBySide
) -> list[Nearest]:
    """The answers for a block's images; those for later images of the band are left to wait."""
    rows = index.prepared(index.vectors[block.start : block.stop].flatten(0, 1))
    cosines = rows.new_empty(len(block), index.patches, index.count)
    places = torch.empty(cosines.shape, dtype=_place_type(index), device=rows.device)

    others = [other for other in range(index.count) if other not in band or other >= block.start]
    # Inside the block, a product with a later image comes when it is that image's turn.
    images = {other: min(len(block), other - block.start + 1) if other in band else len(block) for other in others}
    down = {other: waiting.piece(other, block.start, images[other]) for other in others if other in band}

    def multiply(other: int) -> None:
        # Results go where they belong at once: what a thread makes and another lets go of, an allocator hoards.
        used = images[other]
        with index.products(rows[: used * index.patches], index.prepared(index.vectors[other])) as products:
            products = products.view(used, index.patches, index.patches)
            cosines[:used, :, other], places[:used, :, other] = largest(products)
            if other in down:
                down[other].cosines[:], down[other].places[:] = largest_in_columns(products)

    for _ in side_by_side(multiply, others):
        pass
    for number, position in enumerate(block):
        waiting.take(position, cosines[number], places[number])
    return [Nearest(*both) for both in zip(cosines, places, strict=True)]


class _Waiting:
    """Answers for images whose turn comes later, in pieces of one size that serve again and again.

    Were each made when it is needed, the allocator could not give back what lies between those that stay.
    """

    def __init__(self, index: PatchIndex) -> None:
        self._index = index
        self._spare: list[Nearest] = []
        self._pieces: dict[int, list[tuple[range, Nearest]]] = defaultdict(list)

    def piece(self, image: int, start: int, count: int) -> Nearest:
        """Where to write what an image's patches find in `count` images from `start` on, both [count, patches]."""
        if not self._spare:
            self._spare.append(self._made())
        piece = self._spare.pop()
        self._pieces[image].append((range(start, start + count), piece))
        return Nearest(piece.cosines[:count], piece.places[:count])

    def take(self, image: int, cosines: Tensor, places: Tensor) -> None:
        """Write all that has been kept for an image into its answer, both [patches, n]."""
        for found, piece in self._pieces.pop(image, []):
            columns = slice(found.start, found.stop)
            cosines[:, columns], places[:, columns] = piece.cosines[: len(found)].T, piece.places[: len(found)].T
            self._spare.append(piece)

    def _made(self) -> Nearest:
        vectors, shape = self._index.vectors, (self._index.images_in_block, self._index.patches)
        cosines = torch.empty(
            shape, dtype=torch.bfloat16 if self._index.coarse else vectors.dtype, device=vectors.device
        )
        return Nearest(cosines, torch.empty(shape, dtype=_place_type(self._index), device=vectors.device))


def _place_type(index: PatchIndex) -> torch.dtype:
    return torch.int16 if index.patches < 2**15 else torch.int32


def _largest_band(index: PatchIndex) -> int:
    """Images in a band: half-way through it, a quarter of the square of their number waits."""
    answer = (2 if index.coarse else 4) + _place_type(index).itemsize
    allowed = index.vectors.shape[2] * index.vectors.element_size() * index.count * _WAITING_SHARE
    return max(index.images_in_block, math.isqrt(int(4 * allowed / answer)))


def _bands(count: int, longest: int) -> Iterator[range]:
    """`count` images in as few bands of nearly equal length as `longest` allows."""
    bands = math.ceil(count / longest)
    for band in range(bands):
        yield range(count * band // bands, count * (band + 1) // bands)
