"""What the training images are ranked by: whatever scores the test images, the memory, or both."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from meds.core.selection import robust_maximum
from meds.core.store import Artifact

RankedBy = Literal["student", "memory", "both"]


def ranked_by(wanted: RankedBy, source: str, memory: bool) -> RankedBy:
    """What ranks where scores come from an artifact of the kind `source`, in a run with a memory or without one."""
    if source == "memory-scores":
        return "memory"
    return wanted if memory else "student"


def ranking_scores(by: RankedBy, own: Tensor, memory: Artifact | None) -> Tensor:
    """Scores that order the training images, float32 [n], 0 or more.

    `own` float32 [n] are robust maxima of the patch scores of whatever scores the test images; `memory` is the artifact
    with the memory's score maps of the same images.

    The geometric mean of both does not depend on the scale of either, and needs them to agree: a student overlooks
    defects that it has been trained on, and the memory those that have near neighbours (docs/method.md has figures).
    The paper ranks by the student alone.
    """
    if by == "student" or memory is None:
        return own.clone()
    known = robust_maximum(memory.tensors("scores")["maps"])
    return known if by == "memory" else torch.sqrt(own.clamp(min=0) * known.clamp(min=0))
