"""PatchCore (Roth et al., CVPR 2022) as a detector."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from meds.api import EvaluationDefaults, PatchMemoryDetector

from . import PatchCoreOptions


class PatchCore(PatchMemoryDetector):
    """The distance to a coreset of all training patches."""

    name = "patchcore"
    options: PatchCoreOptions

    def evaluation_defaults(self) -> EvaluationDefaults:
        """As published; where the image score is re-weighted, it is the detector's own."""
        defaults = super().evaluation_defaults()
        return defaults if self.options.reweighting is None else replace(defaults, image_score="own")

    def answer(self, patches: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean distances to the nearest patches [P], and with `reweighting` the image's score."""
        squared, rows = self.memory.nearest(patches, min(self.options.neighbours, len(self.memory)))
        scores = self.measured(squared, rows).mean(dim=1)
        if self.options.reweighting is None:
            return scores, None
        worst = scores.argmax()
        factor = self._rarity(patches[worst], self.memory.vectors[rows[worst, 0]], self.options.reweighting)
        return scores, scores[worst] * factor

    def _rarity(self, patch: Tensor, nearest: Tensor, count: int) -> Tensor:
        """The factor of the paper's eq. 7 for a patch [C] and the vector [C] of the memory that is nearest to it.

        1 - exp(d_0) / sum_j exp(d_j), where d_j are the plain distances of the patch to the `count` vectors of the
        memory that are nearest to `nearest`, itself the first of them.
        """
        _, around = self.memory.nearest(nearest[None], min(count, len(self.memory)))
        distances = (self.memory.vectors[around[0]] - patch).square().sum(dim=1).sqrt()
        return 1 - distances.softmax(dim=0)[0]
