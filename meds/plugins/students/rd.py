"""Registers the student `rd` (Reverse Distillation) and its options, without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from meds.core.hookspecs import hookimpl
from meds.core.registry import Options, Plugin

Count = Annotated[int, Field(ge=1)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class RDOptions(Options):
    """Options of Reverse Distillation (Deng and Li, CVPR 2022); the defaults are the published values."""

    layers: list[str] | None = Field(
        default=None,
        description="Three backbone layers from fine to coarse, each half the grid of the one before; "
        "default: those at strides 4, 8 and 16.",
    )
    blocks: tuple[Count, Count, Count] = Field(
        default=(3, 4, 6), description="Residual blocks of the decoder's three stages, from coarse to fine."
    )
    bottleneck_blocks: Count = Field(default=3, description="Residual blocks of the one-class embedding.")
    learning_rate: float = Field(default=0.005, gt=0.0, description="Adam's learning rate.")
    schedule: Literal["constant", "cosine"] = Field(
        default="constant",
        description="Learning rate over a training: constant as published, or warmed up and then lowered to "
        "nothing along a cosine, which short trainings need.",
    )
    betas: tuple[Decay, Decay] = Field(default=(0.5, 0.999), description="Adam's decay rates.")
    batch_size: Count = Field(default=16, description="Images in a batch.")
    epochs: Count = Field(default=200, description="Passes over the training images.")
    weights: Path | None = Field(
        default=None, description="A checkpoint of the published code (its bottleneck and decoder) to start from."
    )


@hookimpl
def meds_students() -> Sequence[Plugin]:
    """The student `rd`."""
    return [
        Plugin(
            name="rd",
            options=RDOptions,
            load="meds.plugins.students.rd_network:ReverseDistillation",
            summary="Reverse Distillation: a decoder rebuilds three CNN stages from a one-class embedding.",
        )
    ]
