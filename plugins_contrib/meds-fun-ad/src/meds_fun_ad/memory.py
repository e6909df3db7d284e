"""The memory bank that FUN-AD builds anew in every iteration, and the labels it guesses by it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import FunADOptions

_QUERIES = 1024
_VECTORS = 4096


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


def memory_distances(patches: Tensor, memory: Tensor, zero_below: float) -> Tensor:
    """Squared distance of each patch [Q, D] to the nearest vector of a memory [M, D] that is not the patch itself, [Q].

    Distances below `zero_below` count as 0. A patch whose nearest is at 0 is taken to have found itself, and the second
    nearest counts, as published. If the memory has a single vector, the first counts.
    """
    nearest = two_nearest(patches, memory)
    nearest = torch.where(nearest < zero_below, 0.0, nearest)
    return torch.where(nearest[:, 0] == 0, nearest[:, -1], nearest[:, 0])


def two_nearest(queries: Tensor, vectors: Tensor) -> Tensor:
    """The two smallest squared distances [Q, 2] of queries [Q, D] to vectors [M, D], ascending; [Q, 1] if M is 1."""
    centre = vectors.mean(dim=0)
    centred = vectors - centre
    norms = centred.square().sum(dim=1)
    count = min(2, len(vectors))
    found = []
    for part in queries.split(_QUERIES):
        moved = part - centre
        values = torch.empty(len(part), 0, device=part.device)
        places = torch.empty(len(part), 0, dtype=torch.int64, device=part.device)
        for start in range(0, len(vectors), _VECTORS):
            stop = min(start + _VECTORS, len(vectors))
            partial = torch.addmm(norms[start:stop], moved, centred[start:stop].T, alpha=-2)
            best = partial.topk(min(count, stop - start), dim=1, largest=False)
            values = torch.cat([values, best.values], dim=1)
            places = torch.cat([places, best.indices + start], dim=1)
            kept = values.topk(min(count, values.shape[1]), dim=1, largest=False).indices
            values, places = values.gather(1, kept), places.gather(1, kept)
        # Sums of large numbers found the vectors; whether a distance is nothing needs the difference itself.
        found.append((vectors[places] - part[:, None]).square().sum(dim=2))
    return torch.cat(found).sort(dim=1).values


def pseudo_labels(distances: Tensor, options: FunADOptions) -> PseudoLabels:
    """Labels of a batch's patches from their distances to the memory, of any shape."""
    relative = unit_range(distances)
    anomalous = relative > options.threshold
    return PseudoLabels(anomalous, anomalous & (relative < options.noise_threshold))
