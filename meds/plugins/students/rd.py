"""Registers the student `rd` (Reverse Distillation) and its options, without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from meds.core.hookspecs import hookimpl
from meds.core.registry import Options, Plugin

Count = Annotated[int, Field(ge=1)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class RDOptions(Options):
    """Options of Reverse Distillation (Deng and Li, CVPR 2022); the defaults are the published values.

    Attributes:
        layers: three backbone layers from fine to coarse, each half the grid of the one before; None takes
            those at strides 4, 8 and 16.
        blocks: residual blocks of the decoder's three stages, from coarse to fine (each at least 1).
        bottleneck_blocks: residual blocks of the one-class embedding (at least 1).
        learning_rate: Adam's rate, constant (over 0).
        betas: Adam's decay rates (each in [0, 1)).
        batch_size: images in a batch (at least 1).
        epochs: passes over the training images (at least 1).
    """

    layers: list[str] | None = None
    blocks: tuple[Count, Count, Count] = (3, 4, 6)
    bottleneck_blocks: Count = 3
    learning_rate: float = Field(default=0.005, gt=0.0)
    betas: tuple[Decay, Decay] = (0.5, 0.999)
    batch_size: Count = 16
    epochs: Count = 200


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
