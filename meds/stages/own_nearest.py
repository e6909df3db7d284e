"""Searches the images of a class in one another: each pair of images is multiplied once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor

from meds.stages.nearest import Nearest, PatchIndex, largest, largest_in_columns

# What waits for its image's turn may take this share of the vectors' own memory.
_WAITING_SHARE = 0.3

Answer = TypeVar("Answer")
SideBySide = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


def own_nearest(
    index: PatchIndex, side_by_side: SideBySide, answer: Callable[[int, Nearest], Answer]
) -> Iterator[Answer]:
    """What `answer` makes of (position, most similar patches) of each image of the index itself, in order.

    The rows of a product of two images answer for one of them, its columns for the other, whose answer waits until it
    is that image's turn. Where all that waits would take more memory than a third of the vectors, the images are cut
    into bands, and only images of one band share their products. `side_by_side(work, items)` yields the results of
    independent pieces of work, in order.
    """
    waiting = _Waiting(index)
    found: list[tuple[int, Nearest]] = []
    for band in _bands(index.count, _largest_band(index)):
        for start in range(band.start, band.stop, index.images_in_block):
            block = _Block(index, range(start, min(start + index.images_in_block, band.stop)), band, waiting)
            # One block is answered while the next is searched, so that no core waits for another in between.
            work = [
                *(partial(answer, *one) for one in found),
                *(partial(block.search, other) for other in block.others),
            ]
            yield from islice(results := side_by_side(_call, work), len(found))
            for _ in results:
                pass
            found = block.found()
    yield from side_by_side(_call, [partial(answer, *one) for one in found])


def _call(work: Callable[[], Any]) -> Any:
    return work()


class _Block:
    """Images that are searched in all others together; what later images of the band find in them is left to wait."""

    def __init__(self, index: PatchIndex, images: range, band: range, waiting: _Waiting) -> None:
        self._index, self._images, self._waiting = index, images, waiting
        self._rows = index.rows(index.vectors[images.start : images.stop].flatten(0, 1))
        self._cosines = self._rows.new_empty(len(images), index.patches, index.count)
        self._places = torch.empty(self._cosines.shape, dtype=_place_type(index), device=self._rows.device)
        self.others = [other for other in range(index.count) if other not in band or other >= images.start]
        self._down = {o: waiting.piece(o, images.start, self._used(o)) for o in self.others if o in band}

    def _used(self, other: int) -> int:
        """Images of the block that are multiplied with another; with one of the block, those before it and itself."""
        return other - self._images.start + 1 if other in self._images else len(self._images)

    def search(self, other: int) -> None:
        """Multiply the block's images with another one."""
        index, used = self._index, self._used(other)
        # Results go where they belong at once: what a thread makes and another lets go of, an allocator hoards.
        with index.products(self._rows[: used * index.patches], index.columns(index.vectors[other])) as products:
            products = products.view(used, index.patches, index.patches)
            self._cosines[:used, :, other], self._places[:used, :, other] = largest(products)
            if other in self._down:
                piece = self._down[other]
                piece.cosines[:], piece.places[:] = largest_in_columns(products)

    def found(self) -> list[tuple[int, Nearest]]:
        """(position, answer) of each image of the block, once all others have been searched."""
        for number, position in enumerate(self._images):
            self._waiting.take(position, self._cosines[number], self._places[number])
        answers = zip(self._images, self._cosines, self._places, strict=True)
        return [(position, Nearest(cosines, places)) for position, cosines, places in answers]


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
