"""The encoder's preprocessing as plain arithmetic on tensors, so that it can be part of an exported network."""

from __future__ import annotations

import torch
from torch import Tensor

from meds.core.backbone import Preprocessing


def resize_weights(source: int, target: int) -> Tensor:
    """The matrix [target, source] of a bilinear resize with antialiasing, as Pillow defines it.

    A triangle around each target pixel's centre, as wide as two target pixels where the image shrinks.
    """
    scale = source / target
    support = max(scale, 1.0) if isinstance(scale, float) else torch.sym_max(scale, 1.0)
    centres = (torch.arange(target, dtype=torch.float32) + 0.5) * scale
    positions = torch.arange(source, dtype=torch.float32) + 0.5
    weights = torch.relu(1 - (positions[None] - centres[:, None]).abs() / support)
    return weights / weights.sum(dim=1, keepdim=True)


def preprocess(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """RGB uint8 [1, H, W, 3] -> float32 [1, 3, S, S], resized, cut and normalised as the encoder takes it.

    Values are rounded after each of the two passes, as Pillow's 8-bit images are.
    """
    pixels = image.permute(0, 3, 1, 2).float()
    across = resize_weights(image.shape[2], preprocessing.resize)
    down = resize_weights(image.shape[1], preprocessing.resize)
    pixels = _rounded(pixels @ across.T)
    pixels = _rounded(down @ pixels)
    start, side = round((preprocessing.resize - preprocessing.size) / 2), preprocessing.size
    pixels = pixels[:, :, start : start + side, start : start + side] / 255
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    return (pixels - mean[:, None, None]) / std[:, None, None]


def _rounded(values: Tensor) -> Tensor:
    return (values + 0.5).floor().clamp(0, 255)
