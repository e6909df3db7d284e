"""The memory bank that FUN-AD builds anew in every iteration, and the labels it guesses by it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import FunADOptions
from .nearest import NearestVectors


class PseudoLabels(NamedTuple):
    """What is taken for anomalous, bool [...], and which of it gets noise."""

    anomalous: Tensor
    noised: Tensor


def draw_images(scores: Tensor, threshold: float, share: float, generator: torch.Generator) -> list[int]:
    """The images for the memory, ascending: a share, drawn at random, of those that score low.

    Args:
        scores: image scores [n].
        threshold: images below it are candidates, once scores are brought to 0..1. If all score alike, all are.
        share: of the candidates, rounded down, but at least one image.
        generator: draws.
    """
    candidates = (unit_range(scores) < threshold).nonzero()[:, 0]
    count = max(1, int(share * len(candidates)))
    drawn = torch.randperm(len(candidates), generator=generator)[:count]
    return sorted(candidates[drawn.to(candidates.device)].tolist())


def unit_range(values: Tensor) -> Tensor:
    """Values brought to 0..1; all 0 if they are equal."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if bool(high > low) else torch.zeros_like(values)


def memory_distances(patches: Tensor, memory: Tensor, zero_below: float, coarse: bool = False) -> Tensor:
    """Squared distance of each patch [Q, D] to the nearest vector of a memory [M, D] that is not the patch itself, [Q].

    Distances below `zero_below` count as 0. A patch whose nearest is at 0 is taken to have found itself, and the second
    nearest counts, as published. If the memory has a single vector, the first counts. `coarse`: see `NearestVectors`.
    """
    nearest, _ = NearestVectors(memory, coarse).find(patches, 2)
    nearest = torch.where(nearest < zero_below, 0.0, nearest)
    return torch.where(nearest[:, 0] == 0, nearest[:, -1], nearest[:, 0])


def pseudo_labels(distances: Tensor, options: FunADOptions) -> PseudoLabels:
    """Labels of a batch's patches from their distances to the memory, of any shape."""
    relative = unit_range(distances)
    anomalous = relative > options.threshold
    return PseudoLabels(anomalous, anomalous & (relative < options.noise_threshold))
