"""Registers the backbone `timm` (any model of that library) and its options, without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from meds.core.hookspecs import hookimpl
from meds.core.registry import Plugin
from meds.plugins.backbones.options import EncoderOptions


class TimmOptions(EncoderOptions):
    """Options of the backbone `timm`."""

    model: str = Field(
        description='A name that timm knows, with or without a pretrained tag ("wide_resnet50_2.tv_in1k").'
    )
    weights: Path | None = Field(
        default=None,
        description="A local torch or safetensors file; default: MEDS_HOME/weights/<model>, else timm fetches it.",
    )
    padding_size: int | None = Field(
        default=None,
        ge=8,
        description="Side of the images for which a TensorFlow model (`tf_...`) is padded, as by code "
        "that fixes the padding when it makes a network; default: the side at hand.",
    )


@hookimpl
def meds_backbones() -> Sequence[Plugin]:
    """The backbone `timm`."""
    return [
        Plugin(
            name="timm",
            options=TimmOptions,
            load="meds.plugins.backbones.timm_backbone:TimmModel",
            summary="Any CNN or ViT of the timm library that gives intermediate feature maps.",
        )
    ]
