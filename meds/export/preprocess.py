"""The encoder's preprocessing as plain arithmetic on tensors, so that it can be part of an exported network."""

from __future__ import annotations

import torch
from torch import Tensor

from meds.core.backbone import Preprocessing

# Pillow multiplies 8-bit values by integers: weights in units of 2 ** -22.
WEIGHT_UNITS = float(2**22)


def resize_weights(source: int, target: int) -> Tensor:
    """The matrix float64 [target, source] of a bilinear resize with antialiasing, in Pillow's units.

    A triangle around each target pixel's centre, as wide as two target pixels where the image shrinks.
    """
    scale = source / target
    support = max(scale, 1.0) if isinstance(scale, float) else torch.sym_max(scale, 1.0)
    centres = (torch.arange(target, dtype=torch.float64) + 0.5) * scale
    positions = torch.arange(source, dtype=torch.float64) + 0.5
    weights = torch.relu(1 - (positions[None] - centres[:, None]).abs() / support)
    return (weights / weights.sum(dim=1, keepdim=True) * WEIGHT_UNITS + 0.5).floor()


def preprocess(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """RGB uint8 [1, H, W, 3] -> float32 [1, 3, S, S], resized, cut and normalised as the encoder takes it.

    The width comes first and values are rounded after each of the two passes, as in Pillow (since version 13 it begins
    with the height of images that are far too tall; there a value may differ by a level or two). Products and sums are
    whole numbers below 2 ** 31, which float64 holds exactly: many values lie halfway between two levels, where any
    error shows.
    """
    pixels = image.permute(0, 3, 1, 2).double()
    across = resize_weights(image.shape[2], preprocessing.resize)
    down = resize_weights(image.shape[1], preprocessing.resize)
    pixels = _rounded(pixels @ across.T)
    pixels = _rounded(down @ pixels)
    start, side = round((preprocessing.resize - preprocessing.size) / 2), preprocessing.size
    pixels = pixels[:, :, start : start + side, start : start + side].float() / 255
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    return (pixels - mean[:, None, None]) / std[:, None, None]


def _rounded(values: Tensor) -> Tensor:
    return (values / WEIGHT_UNITS + 0.5).floor().clamp(0, 255)
