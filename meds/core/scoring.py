"""From teacher and student maps to score maps (paper eq. 1 and 3) and smoothed anomaly maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from meds.core.errors import PluginError
from meds.core.model import EvaluationDefaults, Scores

Distance = Literal["cosine", "euclidean"]


def patch_distance(target: Tensor, output: Tensor, distance: Distance = "cosine") -> Tensor:
    """Distance of unit vectors patch by patch: two [B, C, H, W] -> [B, H, W] float32, 0 to 2.

    cosine: 1 - cos. euclidean: sqrt(2 - 2 cos), the distance of the vectors at unit length (eq. 1).
    """
    cosine = F.cosine_similarity(target.float(), output.float(), dim=1)
    return from_cosine(cosine, distance)


def from_cosine(cosine: Tensor, distance: Distance) -> Tensor:
    """The distance that belongs to a cosine similarity, never negative."""
    gap = (1.0 - cosine).clamp_min(0.0)
    if distance == "cosine":
        return gap
    # The slope of the root is infinite at 0; the small constant keeps gradients finite.
    return (2.0 * gap + 1e-12).sqrt()


def score_map(targets: Sequence[Tensor], outputs: Sequence[Tensor], distance: Distance = "cosine") -> Tensor:
    """s_theta (eq. 3): the mean over groups of the patch distance on the finest grid, [B, H, W] float32.

    Coarser groups are upsampled bilinearly.
    """
    return mean_over_groups([patch_distance(t, o, distance) for t, o in zip(targets, outputs, strict=True)])


def mean_over_groups(maps: Sequence[Tensor]) -> Tensor:
    """Maps [B, H_i, W_i] of the groups -> their mean [B, H, W] on the finest grid."""
    finest = max((m.shape[-2:] for m in maps), key=lambda size: size[0] * size[1])
    return torch.stack([resize_map(m, finest) for m in maps]).mean(dim=0)


def resize_map(
    maps: Tensor,
    size: Sequence[int],
    align_corners: bool = False,
    upsampling: Literal["bilinear", "nearest"] = "bilinear",
) -> Tensor:
    """Maps [B, H, W] resized to `size`; those that have the size already are returned as they are."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    corners = align_corners if upsampling == "bilinear" else None
    resized = F.interpolate(maps[:, None], size=tuple(size), mode=upsampling, align_corners=corners)
    return resized[:, 0]


def pixel_map(maps: Sequence[Tensor], evaluation: EvaluationDefaults) -> Tensor:
    """Maps of the groups -> one map [B, S, S] at the evaluation's size, not yet smoothed."""
    first = evaluation.resize or evaluation.map_size
    mode = evaluation.upsampling
    resized = [resize_map(m.float(), (first, first), evaluation.align_corners, mode) for m in maps]
    mean = torch.stack(resized).mean(dim=0)
    return resize_map(mean, (evaluation.map_size, evaluation.map_size), upsampling=mode)


def smooth(maps: Tensor, evaluation: EvaluationDefaults) -> Tensor:
    """The evaluation's smoothing of maps [B, S, S] float32."""
    if evaluation.smoothing == "none":
        return maps
    if evaluation.smoothing == "gaussian5":
        return _convolve(maps, _gaussian_kernel(evaluation.sigma, 2).to(maps), "constant")
    # As scipy.ndimage.gaussian_filter does it: cut at 4 sigma, borders reflected with the edge repeated.
    radius = int(4.0 * evaluation.sigma + 0.5)
    return _convolve(maps, _gaussian_kernel(evaluation.sigma, radius).to(maps), "symmetric")


def picture_maps(patches: Tensor, evaluation: EvaluationDefaults) -> Tensor:
    """Stored patch maps [n, H, W] -> smoothed maps [n, S, S] float32, to be drawn.

    Stored is the mean over groups on the finest grid. So where the groups have several grids, these are not quite the
    maps that were measured, whose groups are each resized on their own.
    """
    return smooth(pixel_map([patches], evaluation), evaluation)


def image_scores(maps: Tensor, evaluation: EvaluationDefaults) -> Tensor:
    """Image scores [B] of smoothed maps [B, S, S] for the rules that look at pixels: "max", "top", "pooled-max".

    A window that is larger than the map is cut to it.
    """
    if evaluation.image_score == "pooled-max":
        window = min(evaluation.pool_window, *maps.shape[-2:])
        return F.avg_pool2d(maps[:, None], window, stride=1).amax(dim=(1, 2, 3))
    flat = maps.reshape(maps.shape[0], -1)
    if evaluation.image_score == "max":
        return flat.amax(dim=1)
    # A product that should be whole may fall just below it: 0.29 * 100 is 28.999999999999996.
    count = max(1, int(flat.shape[1] * evaluation.top_fraction + 1e-9))
    return flat.topk(count, dim=1).values.mean(dim=1)


def model_scores(scores: Scores, smoothed: Tensor, how: EvaluationDefaults) -> Tensor:
    """Image scores [B] by any rule of `EvaluationDefaults.image_score`, from a scorer's answer and its smoothed maps.

    Raises:
        PluginError: `own` was asked of something that does not score whole images.
    """
    if how.image_score == "patch-max":
        return mean_over_groups(scores.maps).flatten(1).amax(dim=1)
    if how.image_score == "own":
        if scores.images is None:
            raise PluginError("`image_score: own` is for detectors that score whole images, and this one does not.")
        return scores.images
    return image_scores(smoothed, how)


def _gaussian_kernel(sigma: float, radius: int) -> Tensor:
    positions = np.arange(-radius, radius + 1, dtype=np.float64)
    weights = np.exp(-0.5 * (positions / sigma) ** 2)
    return torch.from_numpy(weights / weights.sum())


def _convolve(maps: Tensor, kernel: Tensor, border: Literal["constant", "symmetric"]) -> Tensor:
    radius = kernel.numel() // 2
    result = maps[:, None]
    for axis in (2, 3):
        padded = _pad(result, radius, axis, border)
        shape = [1, 1, 1, 1]
        shape[axis] = kernel.numel()
        result = F.conv2d(padded, kernel.reshape(shape))
    return result[:, 0]


def _pad(maps: Tensor, radius: int, axis: int, border: Literal["constant", "symmetric"]) -> Tensor:
    size = maps.shape[axis]
    if border == "constant":
        amounts = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        return F.pad(maps, amounts)
    positions = torch.arange(-radius, size + radius, device=maps.device) % (2 * size)
    return maps.index_select(axis, torch.where(positions >= size, 2 * size - 1 - positions, positions))
