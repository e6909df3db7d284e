"""The two losses of FUN-AD: cross-entropy that is balanced between the labels, and mutual smoothness."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .nearest import NearestVectors


def balanced_cross_entropy(logits: Tensor, anomalous: Tensor) -> Tensor:
    """Mean binary cross-entropy over the anomalous patches plus that over the others; an empty side adds nothing."""
    sides = (F.softplus(-logits[anomalous]), F.softplus(logits[~anomalous]))
    return torch.stack([side.mean() if side.numel() else side.sum() for side in sides]).sum()


def mutual_pairs(vectors: Tensor, coarse: bool = False) -> Tensor:
    """Pairs of vectors [Q, D] that are each other's nearest other vector, int64 [K, 2], the smaller number first.

    `coarse`: see `NearestVectors`.
    """
    numbers = torch.arange(len(vectors), device=vectors.device)
    if len(vectors) < 2:
        return numbers.new_zeros(0, 2)
    _, places = NearestVectors(vectors, coarse).find(vectors, 1, own=numbers)
    nearest = places[:, 0]
    first = (nearest[nearest] == numbers) & (numbers < nearest)
    return torch.stack([numbers[first], nearest[first]], dim=1)


def mutual_smoothness(scores: Tensor, pairs: Tensor) -> Tensor:
    """Half the mean difference between the scores [Q] of the two patches of a pair [K, 2]; 0 without pairs.

    The published code takes half of the sum of both scores' mean absolute distance to their middle, through which
    gradients pass: the same number and the same gradient.
    """
    gaps = (scores[pairs[:, 0]] - scores[pairs[:, 1]]).abs()
    return 0.5 * gaps.mean() if len(pairs) else gaps.sum()
