"""The encoder's preprocessing as plain arithmetic on tensors, so that it can be part of an exported network.

Many resized values lie halfway between two levels, where the last bit decides, and OpenVINO has no float64. So all
numbers here are whole and below 2 ** 24, which float32 holds exactly in any order of summation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from meds.core.backbone import Preprocessing

# Pillow multiplies 8-bit values by integers: weights in units of 2 ** -22.
WEIGHT_BITS = 22
# Weights travel in bytes, so that the products of up to 256 pixels sum up to less than 2 ** 24.
PARTS, PART = 3, 256


def resize_weights(source: int, target: int) -> Tensor:
    """The weights of a bilinear resize with antialiasing, in Pillow's units: float32 [3, target, source].

    A weight is the sum of its three bytes, the last of which comes first. It is the share of a triangle around the
    target pixel's centre, as wide as two target pixels where the image shrinks, exact while
    2 * source ** 2 / target < 2 ** 23: up to 30 000 pixels for a target of 224.
    """
    larger: Any = torch.sym_max(source, target)
    near = 2 * ((larger + target - 1) // target) + 3
    rows = torch.arange(target)[:, None]
    # One pixel more than the triangle on each side: this floor need not be exact.
    first = torch.floor((rows + 0.5) * (source / target) - larger / target).long() - 1
    columns = first + torch.arange(near)
    # Heights of the triangle and distances from its centre, both in units of half a source over a target pixel.
    distances = ((2 * columns + 1) * target - (2 * rows + 1) * source).abs()
    inside = (columns >= 0) & (columns < source)
    heights = torch.relu((2 * larger - distances).float()) * inside
    weights = _rounded_share(heights, heights.sum(dim=1, keepdim=True))
    parts = torch.stack([weights % PART, (weights / PART).floor() % PART, (weights / PART**2).floor()])
    dense = torch.zeros(PARTS, target, source + 2 * near)
    return dense.scatter(2, (columns + near).expand(PARTS, -1, -1), parts)[:, :, near : near + source]


def _rounded_share(values: Tensor, total: Tensor) -> Tensor:
    """values / total in units of 2 ** -22, rounded, by long division: a quotient in float32 would lack bits."""
    rest, quotient = values, torch.zeros_like(values)
    for _ in range(WEIGHT_BITS + 1):
        rest = 2 * rest
        bit = (rest >= total).float()
        rest, quotient = rest - bit * total, 2 * quotient + bit
    return ((quotient + 1) / 2).floor()


def preprocess(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """RGB uint8 [1, H, W, 3] -> float32 [1, 3, S, S], resized, cut and normalised as the encoder takes it.

    The width comes first and values are rounded after each of the two passes, as in Pillow (since version 13 it begins
    with the height of images that are far too tall; there a value may differ by a level or two).
    """
    pixels = image.permute(0, 3, 1, 2).float()
    across = resize_weights(image.shape[2], preprocessing.resize)
    down = resize_weights(image.shape[1], preprocessing.resize)
    pixels = _rounded_sum([pixels @ part.T for part in across])
    pixels = _rounded_sum([part @ pixels for part in down])
    start, side = round((preprocessing.resize - preprocessing.size) / 2), preprocessing.size
    pixels = pixels[:, :, start : start + side, start : start + side] / 255
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    return (pixels - mean[:, None, None]) / std[:, None, None]


def _rounded_sum(parts: list[Tensor]) -> Tensor:
    """Sums of products with the bytes of the weights, the last first -> levels, 0 to 255."""
    carried = torch.zeros(())
    for part in parts:
        whole = part + carried
        carried = (whole / PART).floor()
    units = 2.0 ** (WEIGHT_BITS - 8 * (PARTS - 1))
    return (whole / units + 0.5).floor().clamp(0, 255)
