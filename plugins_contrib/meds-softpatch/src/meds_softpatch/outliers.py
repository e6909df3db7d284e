"""How far a patch stands out from those at the same place in other images, for many places at once."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK_ELEMENTS = 2**22
_TINY_DENSITY = 1e-10
_VARIANCE_FLOOR = 0.01


def local_outlier_factors(vectors: Tensor, neighbours: int) -> Tensor:
    """Local outlier factors (Breunig et al., SIGMOD 2000), about 1 for an inlier and larger for an outlier.

    As scikit-learn's LocalOutlierFactor defines them: exactly `neighbours` neighbours, fewer only where there are
    fewer other images, and 1e-10 added to the mean reachability distance before it is inverted.

    Args:
        vectors: float [L, n, D]: for each of L places the vectors of n images; n at least 2.

    Returns:
        [L, n].
    """
    count = min(neighbours, vectors.shape[1] - 1)
    return torch.cat([_factors(_distances(part), count) for part in _blocks(vectors, vectors.shape[1])])


def _factors(distances: Tensor, count: int) -> Tensor:
    near = distances.topk(count, dim=2, largest=False)
    k_distance = near.values[:, :, -1]
    reach = torch.maximum(near.values, _of_neighbours(k_distance, near.indices))
    density = 1 / (reach.mean(dim=2) + _TINY_DENSITY)
    return _of_neighbours(density, near.indices).mean(dim=2) / density


def _of_neighbours(values: Tensor, neighbours: Tensor) -> Tensor:
    """Values [L, n] of images, and neighbours [L, n, k] -> the values of the neighbours [L, n, k]."""
    return values[:, None].expand(-1, values.shape[1], -1).gather(2, neighbours)


def nearest_distances(vectors: Tensor) -> Tensor:
    """1 + the distance to the nearest other image at the same place: [L, n, D] -> [L, n]."""
    return torch.cat([1 + _distances(part).amin(dim=2) for part in _blocks(vectors, vectors.shape[1])])


def gaussian_distances(vectors: Tensor) -> Tensor:
    """1 + the Mahalanobis distance to the mean of all images at the same place: [L, n, D] -> [L, n].

    The covariance is that of the sample (n - 1) with 0.01 added to its diagonal, as in PaDiM.
    """
    _, count, width = vectors.shape
    floor = _VARIANCE_FLOOR * torch.eye(width, dtype=vectors.dtype, device=vectors.device)
    found = []
    for part in _blocks(vectors, width):
        apart = part - part.mean(dim=1, keepdim=True)
        factor = torch.linalg.cholesky(apart.mT @ apart / (count - 1) + floor)
        whitened = torch.linalg.solve_triangular(factor, apart.mT, upper=False)
        found.append(1 + whitened.square().sum(dim=1).sqrt())
    return torch.cat(found)


def _blocks(vectors: Tensor, side: int) -> list[Tensor]:
    """So many places at a time that their square matrices stay small."""
    step = max(1, _BLOCK_ELEMENTS // side**2)
    return [vectors[start : start + step] for start in range(0, len(vectors), step)]


def _distances(vectors: Tensor) -> Tensor:
    """Distances [L, n, n] between the images at each place, infinite from an image to itself."""
    # Products of centred vectors lose fewer digits. What they still lose would tell equal vectors apart.
    centred = vectors - vectors.mean(dim=1, keepdim=True)
    norms = centred.square().sum(dim=2)
    squared = torch.baddbmm(norms[:, None], centred, centred.mT, alpha=-2) + norms[:, :, None]
    squared[squared < 32 * torch.finfo(squared.dtype).eps * norms[:, :, None]] = 0
    squared.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    return squared.sqrt_()
