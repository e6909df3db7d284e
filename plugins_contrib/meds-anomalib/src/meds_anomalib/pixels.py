"""The backbone `pixels`: its only layer is the preprocessed image, so that a student can read images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from meds.api import Backbone, Layer, Preprocessing
from meds_anomalib import PixelsOptions

LAYER = "pixels"
LEVELS = 255


class Pixels(Backbone):
    """Resized and cut RGB images as whole numbers 0 to 255, [B, 3, S, S].

    The feature cache holds half precision, in which all whole numbers up to 2048 are exact: what a student
    reads are the image's 8-bit values, not rounded ones.
    """

    def __init__(self, options: PixelsOptions) -> None:
        size = options.image_size
        self.name, self.family, self.final_layer = "pixels", "cnn", LAYER
        self.preprocessing = Preprocessing(options.resize or size, size, (0.0,) * 3, (1 / LEVELS,) * 3)
        self.layers = (Layer(LAYER, 3, size, size),)
        self.fingerprint = hashlib.sha256(repr(("pixels", self.preprocessing)).encode()).hexdigest()

    def to(self, device: torch.device) -> None:
        """Nothing to move."""

    def forward(self, images: Tensor, layers: Sequence[str]) -> list[Tensor]:
        """The images for each of `layers`, all of which must be "pixels"; KeyError for another."""
        for name in layers:
            if name != LAYER:
                raise KeyError(name)
        # Preprocessing divides by 255 and by 1/255, which is off by less than the rounding takes away.
        return [images.round().clamp(0, LEVELS) for _ in layers]
