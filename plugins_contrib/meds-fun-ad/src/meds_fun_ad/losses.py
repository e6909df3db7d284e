"""The two losses of FUN-AD: cross-entropy that is balanced between the labels, and mutual smoothness."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 1024


def balanced_cross_entropy(logits: Tensor, anomalous: Tensor) -> Tensor:
    """Mean binary cross-entropy over the anomalous patches plus that over the others; an empty side adds nothing."""
    sides = (F.softplus(-logits[anomalous]), F.softplus(logits[~anomalous]))
    return torch.stack([side.mean() if side.numel() else side.sum() for side in sides]).sum()


def mutual_pairs(vectors: Tensor) -> Tensor:
    """Pairs of vectors [Q, D] that are each other's nearest other vector, int64 [K, 2], the smaller number first."""
    if len(vectors) < 2:
        return torch.zeros(0, 2, dtype=torch.int64, device=vectors.device)
    centred = vectors - vectors.mean(dim=0)
    norms = centred.square().sum(dim=1)
    nearest = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
    for start in range(0, len(vectors), _BLOCK):
        stop = min(start + _BLOCK, len(vectors))
        partial = torch.addmm(norms, centred[start:stop], centred.T, alpha=-2)
        partial[torch.arange(stop - start), torch.arange(start, stop)] = torch.inf
        nearest[start:stop] = partial.argmin(dim=1)
    numbers = torch.arange(len(vectors), device=vectors.device)
    first = (nearest[nearest] == numbers) & (numbers < nearest)
    return torch.stack([numbers[first], nearest[first]], dim=1)


def mutual_smoothness(scores: Tensor, pairs: Tensor) -> Tensor:
    """Half the mean difference between the scores [Q] of the two patches of a pair [K, 2]; 0 without pairs.

    The published code takes half of the sum of both scores' mean absolute distance to their middle, through which
    gradients pass: the same number and the same gradient.
    """
    gaps = (scores[pairs[:, 0]] - scores[pairs[:, 1]]).abs()
    return 0.5 * gaps.mean() if len(pairs) else gaps.sum()
