"""Teacher maps as vectors that a memory searches: one for each place of one grid, scaled to compare by cosines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def memory_grid(groups: Sequence[Tensor], largest: int) -> tuple[int, int]:
    """The grid (H, W) of the memory: the finest of the teacher maps [B, C_i, H_i, W_i], at most `largest` a side."""
    height, width = max(((g.shape[2], g.shape[3]) for g in groups), key=lambda size: size[0] * size[1])
    return min(height, largest), min(width, largest)


def patch_vectors_of(groups: Sequence[Tensor], grid: tuple[int, int], pooling: int = 1) -> Tensor:
    """Teacher maps [B, C_i, H_i, W_i] -> unit vectors [B, H*W, sum of C_i] float32 on one grid."""
    parts = []
    for group in groups:
        if pooling > 1:
            group = F.avg_pool2d(group, pooling, stride=1, padding=pooling // 2, count_include_pad=False)
        height, width = group.shape[-2:]
        if height > grid[0] or width > grid[1]:
            group = F.adaptive_avg_pool2d(group, grid)
        elif (height, width) != grid:
            group = F.interpolate(group, size=grid, mode="bilinear", align_corners=False)
        parts.append(F.normalize(group.float(), dim=1))
    joined: Tensor = torch.cat(parts, dim=1) / math.sqrt(len(parts))
    return joined.flatten(2).transpose(1, 2).contiguous()
