"""The backbone `pixels`: what a student reads are the image's own 8-bit values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from meds_anomalib import PixelsOptions
from meds_anomalib.pixels import LAYER, Pixels


def as_meds_does(image: np.ndarray, pixels: Pixels) -> torch.Tensor:
    """Divide by 255, subtract the mean, divide by the standard deviation, all in single precision."""
    mean, std = (np.asarray(values, np.float32) for values in (pixels.preprocessing.mean, pixels.preprocessing.std))
    scaled = (image.astype(np.float32) / np.float32(255) - mean) / std
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))[None]


def test_every_grey_value_is_exact_in_half_precision() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    pixels = Pixels(PixelsOptions(image_size=16))
    (found,) = pixels.forward(as_meds_does(image, pixels), [LAYER])
    assert torch.equal(found.half().float()[0], torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32)))


def test_mixed_precision_does_not_round() -> None:
    image = np.arange(192, 256, dtype=np.uint8).reshape(8, 8, 1).repeat(3, axis=2)
    pixels = Pixels(PixelsOptions(image_size=8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = pixels.features(as_meds_does(image, pixels), [LAYER])
    assert torch.equal(found[0].float(), torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32)))


def test_its_only_layer_has_the_image_s_size() -> None:
    pixels = Pixels(PixelsOptions(image_size=48, resize=64))
    assert (pixels.preprocessing.resize, pixels.preprocessing.size) == (64, 48)
    assert [(layer.name, layer.channels, layer.height, layer.width) for layer in pixels.layers] == [(LAYER, 3, 48, 48)]
    assert pixels.layer(pixels.final_layer) == pixels.layers[0]
    with pytest.raises(KeyError):
        pixels.forward(torch.zeros(1, 3, 48, 48), ["stride8"])


def test_another_size_has_another_fingerprint() -> None:
    prints = {Pixels(PixelsOptions(image_size=size, resize=64)).fingerprint for size in (48, 56, 64)}
    assert len(prints) == 3
