"""Building blocks of Reverse Distillation: residual blocks, multi-scale bottleneck and mirrored decoder.

Source: H. Deng, X. Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding", CVPR 2022,
sections 3.2 (bottleneck) and 3.3 (decoder).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)


def _up(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, kernel_size=2, stride=2, bias=False)


def _reduction(inputs: int, outputs: int) -> list[nn.Module]:
    return [_conv(inputs, outputs, 3, stride=2), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _fit(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bring [B, C, h, w] to `grid`: cut one surplus row or column, else resize bilinearly."""
    height, width = values.shape[-2:]
    # A stride-2 convolution maps 2n-1 and 2n rows to the same n, and its row i looks at row 2i: cutting
    # the surplus row of the way back keeps the two aligned, where a resize would shift them.
    if 0 <= height - grid[0] <= 1 and 0 <= width - grid[1] <= 1:
        return values[..., : grid[0], : grid[1]]
    return F.interpolate(values, size=grid, mode="bilinear", align_corners=False)


class ResidualBlock(nn.Module):
    """Bottleneck residual block whose inner width is half of `outputs`, as in wide-ResNet-50-2.

    [B, inputs, h, w] -> [B, outputs, h', w'], where h' is h (`change` "none"), ceil(h/2) ("down") or 2h
    ("up": transposed 2x2 convolutions without overlap in the block and in the shortcut).
    """

    def __init__(self, inputs: int, outputs: int, change: str = "none") -> None:
        super().__init__()
        inner = max(1, outputs // 2)
        self.conv1 = _conv(inputs, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2: nn.Module = (
            _up(inner, inner) if change == "up" else _conv(inner, inner, 3, stride=2 if change == "down" else 1)
        )
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = _conv(inner, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if change == "up":
            self.shortcut = nn.Sequential(_up(inputs, outputs), nn.BatchNorm2d(outputs))
        elif change == "down":
            self.shortcut = nn.Sequential(_conv(inputs, outputs, 1, stride=2), nn.BatchNorm2d(outputs))

    def forward(self, values: Tensor) -> Tensor:
        """See the class."""
        hidden = F.relu(self.bn1(self.conv1(values)), inplace=True)
        hidden = F.relu(self.bn2(self.conv2(hidden)), inplace=True)
        return F.relu(self.bn3(self.conv3(hidden)) + self.shortcut(values), inplace=True)


def _stage(inputs: int, outputs: int, blocks: int, change: str) -> nn.Sequential:
    first = ResidualBlock(inputs, outputs, change)
    return nn.Sequential(first, *(ResidualBlock(outputs, outputs) for _ in range(blocks - 1)))


class OneClassBottleneck(nn.Module):
    """Multi-scale fusion and one-class embedding (section 3.2).

    Maps [B, c1, H, W], [B, c2, H/2, W/2], [B, c3, H/4, W/4] -> embedding [B, 2*c3, H/8, W/8].
    """

    def __init__(self, channels: Sequence[int], blocks: int) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.fuse_fine = nn.Sequential(*_reduction(fine, middle), *_reduction(middle, coarse))
        self.fuse_middle = nn.Sequential(*_reduction(middle, coarse))
        self.embed = _stage(3 * coarse, 2 * coarse, blocks, "down")

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """See the class."""
        fine, middle, coarse = features
        grid = (coarse.shape[-2], coarse.shape[-1])
        parts = [_fit(self.fuse_fine(fine), grid), _fit(self.fuse_middle(middle), grid), coarse]
        embedding: Tensor = self.embed(torch.cat(parts, dim=1))
        return embedding


class Decoder(nn.Module):
    """Mirrored residual network (section 3.3): embedding -> maps with the channels and grids of the teacher.

    Returned from fine to coarse, although the coarse one is computed first.
    """

    def __init__(self, channels: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        fine, middle, coarse = channels
        widths = (2 * coarse, coarse, middle, fine)
        self.stages = nn.ModuleList(_stage(widths[i], widths[i + 1], blocks[i], "up") for i in range(3))

    def forward(self, embedding: Tensor, grids: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Embedding [B, 2*c3, h, w] and the three grids from fine to coarse -> [B, c_i, *grids[i]]."""
        outputs: list[Tensor] = []
        values = embedding
        for stage, grid in zip(self.stages, reversed(grids), strict=True):
            values = _fit(stage(values), grid)
            outputs.insert(0, values)
        return outputs
