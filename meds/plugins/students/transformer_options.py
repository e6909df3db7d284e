"""Options that the students with a transformer decoder (Dinomaly, INP-Former) share; imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from meds.core.registry import Options

Count = Annotated[int, Field(ge=1)]


class TransformerOptions(Options):
    """Teacher groups, size of the decoder and the optimiser; the defaults are the published values."""

    layers: list[list[str]] | None = Field(
        default=None,
        description="Groups of backbone layers, each group's mean being one teacher map; default: eight layers of "
        "a ViT in two groups (blocks 2-5 and 6-9 of 12), the maps at strides 8 and 16 of a CNN, or its two "
        "last ones if it lacks one of these.",
    )
    grid: Count | None = Field(
        default=None,
        description="Side of the grid that a CNN's maps are brought to; default: that of the coarser map if it has "
        "14 positions or more, else that of the finer one. A ViT has one grid already.",
    )
    width: Count | None = Field(
        default=None,
        description="Channels that a CNN's maps are brought to by a fixed random projection; default: 256. A ViT keeps "
        "its own.",
    )
    depth: Count = Field(
        default=8,
        description="Decoder blocks; where they are as many as the layers, each group takes as many as it has layers, "
        "else an equal share.",
    )
    heads: Count | None = Field(default=None, description="Attention heads; default: one for every 64 channels.")
    mlp_ratio: float = Field(default=4.0, gt=0, description="Hidden width of the perceptrons over the token width.")
    patch_size: Count = Field(
        default=14,
        description="Pixels that a position of the grid stands for; maps are resized to grid x patch_size pixels "
        "before they are brought to the evaluation's size.",
    )
    warmup_iterations: int = Field(
        default=100,
        ge=0,
        description="Iterations in which the learning rate rises from 0; at most a quarter of the training.",
    )
    weight_decay: float = Field(default=1e-4, ge=0, description="StableAdamW's weight decay.")
    optimiser_epsilon: float = Field(default=1e-10, gt=0, description="StableAdamW's addend in the denominator.")
    clip_norm: float | None = Field(default=0.1, gt=0, description="Largest norm of the gradient.")
    batch_size: Count = Field(default=16, description="Images in a batch.")
    weights: Path | None = Field(default=None, description="A checkpoint of the published code to start from.")
