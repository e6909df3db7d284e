"""The training images of one class as InReaCh goes through them: in the order of the seeds, patch by patch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from meds.api import TrainingFeatures, derive_seed

from . import InReaChOptions
from .embedding import PatchEmbedding

_BATCH = 8


class ClassImages:
    """The images of a class, the seeds first; a number in this class is a place in that order.

    Attributes:
        positions: the place of each among all training images.
        contents: what each shows, int64: equal for copies of one image.
        places: whether a patch's vector ends with its place on the grid.
    """

    def __init__(
        self, training: TrainingFeatures, class_index: int, embedding: PatchEmbedding, options: InReaChOptions
    ) -> None:
        self._training, self._embedding, self._options = training, embedding, options
        self.positions = (training.classes == class_index).nonzero()[:, 0].tolist()
        if options.seed_images == "random":
            generator = torch.Generator().manual_seed(derive_seed(training.seed, "seed images", class_index))
            order = torch.randperm(len(self.positions), generator=generator).tolist()
            self.positions = [self.positions[i] for i in order]
        self.contents = training.contents[self.positions]
        self.places = options.position == "always"

    def __len__(self) -> int:
        return len(self.positions)

    def look_for_places(self) -> None:
        """Decide whether places matter, by the mean image, unless the options say so."""
        if self._options.position == "auto":
            self.places = asymmetry(self._mean_image()) >= self._options.position_threshold

    def patches(self, title: str, first: int = 0) -> Iterator[tuple[int, Tensor]]:
        """Number and patch vectors [P, C] of every image from `first` on; shows progress."""
        with self._training.bar(title, len(self)) as bar:
            bar.advance(first)
            for start in range(first, len(self), _BATCH):
                vectors = self.vectors(self._training.read(self.positions[start : start + _BATCH]))
                for number, values in enumerate(vectors, start):
                    yield number, values
                    bar.advance(1)

    def vectors(self, maps: Sequence[Tensor]) -> Tensor:
        """Patch vectors [B, P, C] of feature maps, with their places if those matter."""
        return embedded(maps, self._embedding, self._options.position_range if self.places else None)

    def _mean_image(self) -> Tensor:
        total = torch.zeros(())
        with self._training.bar("mean image", len(self)) as bar:
            for start in range(0, len(self), _BATCH):
                chosen = self.positions[start : start + _BATCH]
                total = total + self._training.images(chosen).double().sum(dim=0)
                bar.advance(len(chosen))
        return total / len(self)


def embedded(maps: Sequence[Tensor], embedding: PatchEmbedding, position_range: float | None) -> Tensor:
    """Patch vectors [B, P, C] of feature maps; with `position_range` C is two more, the row and the column.

    Row and column run from 0 to before `position_range`: index / side of the grid x range, as published.
    """
    vectors = embedding(maps)
    if position_range is None:
        return vectors
    rows, columns = (torch.arange(side) * (position_range / side) for side in embedding.grid)
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
    return torch.cat([vectors, places.to(vectors).expand(len(vectors), -1, -1)], dim=2)


def asymmetry(image: Tensor) -> float:
    """Mean squared difference between an image [S, S, 3] and the same with rows and columns exchanged."""
    return float((image - image.transpose(0, 1)).square().mean())
