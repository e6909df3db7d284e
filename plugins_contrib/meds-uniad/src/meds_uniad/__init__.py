"""Registers the student `uniad` and its options, without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from meds.api import Options, Plugin, hookimpl

MEDS_API = 1

Count = Annotated[int, Field(ge=1)]


class UniADOptions(Options):
    """Options of UniAD (You et al., NeurIPS 2022); the defaults are the published values."""

    layers: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Backbone layers that are joined into the map to rebuild; default: those at strides 2, 4, 8, 16 of "
        "a CNN, the last of a ViT.",
    )
    grid: Count | None = Field(
        default=None,
        description="Side of the grid that the layers are brought to; default: that of the coarsest of them.",
    )
    width: int = Field(default=256, ge=2, multiple_of=2, description="Channels of the transformer.")
    heads: Count = Field(default=8, description="Attention heads; they must divide the width.")
    feedforward: Count = Field(default=1024, description="Channels inside the feed-forward layers.")
    encoder_layers: Count = Field(default=4, description="Layers of the encoder.")
    decoder_layers: Count = Field(default=4, description="Layers of the decoder, each with a query of its own.")
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0, description="Dropout of the transformer's layers.")
    neighbours: int = Field(
        default=7,
        ge=0,
        description="Side, odd, of the square of positions around a patch that it may not look at; 0: no mask.",
    )
    jitter_scale: float = Field(
        default=20.0, ge=0.0, description="Size of the noise that is added to patches in training."
    )
    jitter_probability: float = Field(
        default=1.0, ge=0.0, le=1.0, description="Share of the training batches that are jittered."
    )
    map: Literal["published", "distance"] = Field(
        default="published",
        description="Anomaly map of a student trained on its own loss: the published root of the summed squared "
        "difference, or the `distance` by which memory, distillation and selection score patches.",
    )
    learning_rate: float = Field(default=1e-4, gt=0.0, description="AdamW's learning rate.")
    drop_at: float = Field(
        default=0.8, gt=0.0, le=1.0, description="Share of the training after which the learning rate falls to a tenth."
    )
    weight_decay: float = Field(default=1e-4, ge=0.0, description="AdamW's weight decay.")
    clip_norm: float | None = Field(default=0.1, gt=0.0, description="Largest norm of the gradient; null: no limit.")
    batch_size: Count = Field(default=64, description="Images in a batch.")
    epochs: Count = Field(default=1000, description="Passes over the training images.")

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        if self.neighbours and self.neighbours % 2 == 0:
            raise ValueError(f"neighbours must be odd, so that the square has a middle, or 0, not {self.neighbours}")
        return self


@hookimpl
def meds_students() -> Sequence[Plugin]:
    """The student `uniad`."""
    return [
        Plugin(
            name="uniad",
            options=UniADOptions,
            load="meds_uniad.student:UniAD",
            summary="UniAD: a neighbour-masked transformer that rebuilds features from learned queries.",
        )
    ]
