"""Registers the backbone `timm` (any model of that library) and its options, without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from meds.core.hookspecs import hookimpl
from meds.core.registry import Plugin
from meds.plugins.backbones.options import CutOptions


class TimmOptions(CutOptions):
    """Options of the backbone `timm`.

    Attributes:
        model: a name that timm knows, with or without a pretrained tag ("wide_resnet50_2.tv_in1k").
        pretrained: False gives random weights, for tests; `weights` wins over it.
        weights: a local torch or safetensors file; None lets timm fetch the weights (or take its cache).
        image_size: side of the square input in pixels; None takes the model's own.
        resize: side to which images are resized before the central `image_size` is cut; None: no cut.
        seed: of the random weights.
    """

    model: str
    pretrained: bool = True
    weights: Path | None = None
    image_size: int | None = Field(default=None, ge=8)
    resize: int | None = Field(default=None, ge=8)
    seed: int = 0


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
