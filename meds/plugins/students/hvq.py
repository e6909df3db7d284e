"""Registers the student `hvq` (hierarchical vector-quantised transformer) and its options, without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from meds.core.hookspecs import hookimpl
from meds.core.registry import Options, Plugin

Count = Annotated[int, Field(ge=1)]
TRANSPORT_WEIGHT = 80.0


class HVQOptions(Options):
    """Options of HVQ-Trans (Lu et al., NeurIPS 2023); the defaults are the published values unless they say so."""

    layers: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Backbone layers that are joined into the map to rebuild; default: those at strides 2, 4, 8, 16.",
    )
    grid: Count | None = Field(
        default=None,
        description="Side of the grid that the layers are brought to; default: that of the coarsest of them.",
    )
    width: int = Field(
        default=256, ge=2, multiple_of=2, description="Channels of the encoder; the decoder has twice as many."
    )
    heads: Count = Field(default=8, description="Attention heads; they must divide the width.")
    feedforward: Count = Field(default=1024, description="Channels inside the feed-forward layers.")
    levels: Count = Field(default=4, description="Layers of the encoder and of the decoder.")
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0, description="Dropout of the transformer layers.")
    codes: Count = Field(default=512, description="Codes in each codebook; a class has one more codebook than levels.")
    decay: float = Field(default=0.99, ge=0.0, lt=1.0, description="Decay of the codes' moving averages.")
    codebook_start: Literal["mended", "published"] = Field(
        default="mended",
        description="mended: codes start as tokens of their class's first images, and a code that serves no token "
        "for long starts anew as one. published: normal random codes, of which most are never used.",
    )
    commitment_weight: float = Field(default=0.25, ge=0.0, description="Weight of the commitment loss.")
    map: Literal["published", "distance"] = Field(
        default="published",
        description="Anomaly map of a student trained on its own loss: the published root of the summed squared "
        "difference, or the `distance` by which memory, distillation and selection score patches.",
    )
    transport_score: bool = Field(
        default=False,
        description="Add the optimal-transport score of the finest codebook to the published map, as the authors' "
        "best figures do and their training script does not.",
    )
    transport_weight: float = Field(
        default=TRANSPORT_WEIGHT, gt=0.0, description="Weight of the optimal-transport score."
    )
    learning_rate: float = Field(default=1e-4, gt=0.0, description="AdamW's learning rate.")
    drop_at: float = Field(
        default=0.8, gt=0.0, le=1.0, description="Share of the training after which the learning rate falls to a tenth."
    )
    weight_decay: float = Field(default=1e-4, ge=0.0, description="AdamW's weight decay.")
    clip_norm: float | None = Field(default=0.1, gt=0.0, description="Largest norm of the gradient; null: no limit.")
    batch_size: Count = Field(default=16, description="Images in a batch.")
    epochs: Count = Field(default=1000, description="Passes over the training images.")
    weights: Path | None = Field(
        default=None,
        description="A checkpoint of the authors' code to start from; it must have been made for as many "
        "classes, in alphabetical order.",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> HVQOptions:
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        if self.transport_score and self.map != "published":
            raise ValueError("transport_score belongs to the published map: leave out map or transport_score")
        if self.transport_weight != TRANSPORT_WEIGHT and not self.transport_score:
            raise ValueError("transport_weight has no effect unless transport_score is true")
        return self


@hookimpl
def meds_students() -> Sequence[Plugin]:
    """The student `hvq`."""
    return [
        Plugin(
            name="hvq",
            options=HVQOptions,
            load="meds.plugins.students.hvq_network:HierarchicalVectorQuantisedTransformer",
            summary="HVQ-Trans: a transformer rebuilds CNN features from codebooks that each class has for itself.",
            # Appendix B of the MeDS paper: 200 epochs, which the drop of the learning rate at epoch 800 does not reach.
            selecting={"epochs": 200, "drop_at": 1.0},
        )
    ]
