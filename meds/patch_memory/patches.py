"""The patches of all training images, without all of them ever being in memory at their full width."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from meds.core.detector import TrainingFeatures
from meds.patch_memory.embedding import PatchEmbedding


class TrainingPatches:
    """Patches are numbered image by image, and within an image row by row.

    Every method embeds the images that it needs anew: that costs less than the memory of keeping them.

    Attributes:
        per_image: patches of an image.
        channels: width of a patch.
    """

    def __init__(self, training: TrainingFeatures, embedding: PatchEmbedding, per_image: int) -> None:
        self._training, self._embedding, self.per_image = training, embedding, per_image
        self.channels = embedding.channels

    def __len__(self) -> int:
        return len(self._training) * self.per_image

    def image_of(self, positions: Tensor) -> Tensor:
        """The images that patches belong to, int64."""
        return positions // self.per_image

    def project(self, matrix: Tensor) -> Tensor:
        """All patches times a matrix [C, W]: float32 [n, W]."""
        matrix = matrix.to(self._training.device)
        result = torch.empty(len(self), matrix.shape[1], device=matrix.device)
        for images, maps in self._training.batches(title="patches"):
            result[images[0] * self.per_image : (images[-1] + 1) * self.per_image] = (
                self._embedding(maps) @ matrix
            ).flatten(0, 1)
        return result

    def gather(self, positions: Tensor) -> Tensor:
        """The patches at these positions, float32 [M, C], in their order."""
        result = torch.empty(len(positions), self._embedding.channels, device=self._training.device)
        owners = self.image_of(positions)
        needed = sorted(set(owners.tolist()))
        with self._training.bar("memory", len(needed)) as bar:
            for image in needed:
                rows = (owners == image).nonzero()[:, 0]
                vectors = self._embedding(self._training.read([image]))[0]
                result[rows] = vectors[positions[rows] % self.per_image]
                bar.advance(1)
        return result

    def images(self) -> Iterator[tuple[int, Tensor]]:
        """Each image and its patches [P, C]."""
        for images, maps in self._training.batches(title="scores without the image itself"):
            yield from zip(images, self._embedding(maps), strict=True)
