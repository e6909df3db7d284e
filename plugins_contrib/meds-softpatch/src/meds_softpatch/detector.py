"""SoftPatch (Jiang et al., NeurIPS 2022) as a detector."""

from __future__ import annotations

import torch
from torch import Tensor

from meds.api import (
    DataError,
    PatchMemoryDetector,
    PatchWeights,
    TrainingFeatures,
    TrainingPatches,
    random_projection,
)

from . import SoftPatchOptions
from .outliers import gaussian_distances, local_outlier_factors, nearest_distances


class SoftPatch(PatchMemoryDetector):
    """A coreset without the patches that are outliers at their place, and distances weighed by outlier factors.

    Places correspond only within a class. So outlier factors, and which patches are removed, are settled for each
    class alone, also where one fit holds several classes; the coreset is then chosen over all of them.
    """

    name = "softpatch"
    options: SoftPatchOptions

    def weigh(self, training: TrainingFeatures, patches: TrainingPatches, generator: torch.Generator) -> PatchWeights:
        """Outlier factors as the score's weights, and 0 or 1 for the choice.

        Raises:
            DataError: a class has one training image, so that its patches cannot be compared with others.
        """
        members = self._members(training.classes)
        projection = random_projection(patches.channels, self.options.projection, generator)
        projected = patches.project(projection).view(len(training), patches.per_image, -1)
        factors = torch.empty(projected.shape[:2], device=projected.device)
        kept = torch.empty_like(factors)
        with training.bar("outliers", len(members)) as bar:
            for images in members:
                found = self._outlier_factors(projected[images].transpose(0, 1)).T
                factors[images] = found
                kept[images] = (found <= _quantile(found, 1 - self.options.threshold)).float()
                bar.advance(1)
        soft = factors.flatten().clamp_min(0) if self.options.soft_weights else None
        return PatchWeights(kept.flatten(), soft, weigh_start=not self.options.removed_may_start)

    def _members(self, classes: Tensor) -> list[Tensor]:
        """The images of each class."""
        members = [(classes == index).nonzero()[:, 0] for index in sorted(set(classes.tolist()))]
        for images in members:
            if len(images) < 2:
                name = self.class_names[int(classes[images[0]])]
                raise DataError(
                    f"The detector 'softpatch' compares the training images of a class with one another, and the "
                    f"class '{name}' has only one: add images, or leave the class out."
                )
        return members

    def _outlier_factors(self, vectors: Tensor) -> Tensor:
        """[places, images, width] -> [places, images]."""
        if self.options.discriminator == "lof":
            return local_outlier_factors(vectors, self.options.lof_k)
        return nearest_distances(vectors) if self.options.discriminator == "nearest" else gaussian_distances(vectors)


def _quantile(values: Tensor, share: float) -> Tensor:
    """torch.quantile, which takes no more than 16 million values, for any number: linear between neighbours."""
    ordered = values.flatten().sort().values
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], place - below)
