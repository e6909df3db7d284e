"""Anomaly maps as pictures: on the image's own pixels, in colours that mean the same for every image of a class."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from meds.core.backbone import Preprocessing

# Perceptually even, and it keeps its order for the colour-blind and in grey print.
COLOURS = "inferno"
LONGEST_SIDE = 2048
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def on_image(values: Floats, height: int, width: int, preprocessing: Preprocessing) -> Floats:
    """An anomaly map [S, S] on an image's pixels, float32 [height, width]; NaN where the encoder did not look.

    The encoder sees the central `size`² of the image resized to `resize`² pixels.
    """
    share = preprocessing.size / preprocessing.resize
    inner_height, inner_width = max(1, round(height * share)), max(1, round(width * share))
    picture = Image.fromarray(np.asarray(values, dtype=np.float32), mode="F")
    resized = np.asarray(picture.resize((inner_width, inner_height), Image.Resampling.BILINEAR))
    whole = np.full((height, width), np.nan, dtype=np.float32)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    whole[top : top + inner_height, left : left + inner_width] = resized
    return whole


def heatmap(values: Floats, scale: Sequence[float]) -> Bytes:
    """Colours uint8 [H, W, 4] of a map [H, W] on a fixed scale (low, high); NaN is transparent.

    What lies outside the scale gets the colour of its end.
    """
    low, high = scale
    share = np.nan_to_num(np.clip((values - low) / max(high - low, 1e-12), 0, 1))
    colours = _table()[np.rint(255 * share).astype(np.uint8)]
    alpha = np.where(np.isnan(values), 0, 255).astype(np.uint8)
    return np.dstack([colours, alpha])


def overlay(image: Bytes, values: Floats, scale: Sequence[float], opacity: float = 0.5) -> Bytes:
    """An image uint8 [H, W, 3] with its map [H, W] over it, uint8 [H, W, 3]; `opacity` 0 to 1."""
    colours = heatmap(values, scale)
    weight = opacity * (colours[..., 3:].astype(np.float32) / 255)
    mixed = (1 - weight) * image + weight * colours[..., :3]
    return np.rint(mixed).astype(np.uint8)


def fit_to_screen(image: Bytes) -> Bytes:
    """An image uint8 [H, W, 3], made smaller if its longer side is over LONGEST_SIDE pixels."""
    height, width = image.shape[:2]
    share = LONGEST_SIDE / max(height, width)
    if share >= 1:
        return image
    size = (max(1, round(width * share)), max(1, round(height * share)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def hex_colours(count: int) -> list[str]:
    """`count` colours from the low end of the scale to the high one, as "#rrggbb"."""
    places = np.linspace(0, 255, count).round().astype(int)
    return ["#" + bytes(colour).hex() for colour in _table()[places]]


def png(pixels: npt.NDArray[Any]) -> bytes:
    """Pixels uint8 [H, W], [H, W, 3] or [H, W, 4], or bool [H, W] (False black, True white), as a PNG file."""
    values = pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels
    target = io.BytesIO()
    Image.fromarray(values).save(target, format="PNG")
    return target.getvalue()


@lru_cache(maxsize=1)
def _table() -> Bytes:
    from matplotlib import colormaps

    colours: Bytes = (colormaps[COLOURS](np.arange(256), bytes=True))[:, :3]
    return colours
