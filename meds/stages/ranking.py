"""What the training images are ranked by: whatever scores the test images, the memory, or both."""

from __future__ import annotations

import torch
from torch import Tensor

from meds.stages.options import RankedBy


def ranked_by(wanted: RankedBy, source: str, memory: bool) -> RankedBy:
    """What ranks where scores come from an artifact of the kind `source`, in a run with a memory or without one."""
    if source == "memory-scores":
        return "memory"
    return wanted if memory else "student"


def ranking_scores(by: RankedBy, own: Tensor, known: Tensor | None) -> Tensor:
    """Scores that order the training images, float32 [n], 0 or more.

    `own` and `known` float32 [n] are robust maxima of patch scores: of whatever scores the test images, and of the
    memory, None without one.

    The geometric mean of both does not depend on the scale of either, and needs them to agree: a student overlooks
    defects that it has been trained on, and the memory those that have near neighbours (docs/results.md has figures).
    The paper ranks by the student alone.
    """
    if by == "student" or known is None:
        # What is written side by side may not share its memory.
        return own.clone()
    return known if by == "memory" else torch.sqrt(own.clamp(min=0) * known.clamp(min=0))
