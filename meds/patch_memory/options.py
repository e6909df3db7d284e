"""Options of detectors that remember patches; imports no torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from meds.core.registry import Options


class PatchMemoryOptions(Options):
    """Patch embedding, coreset and distance, which PatchCore (Roth et al., CVPR 2022) and its relatives share.

    Fields: layers, neighbourhood, layer_channels, channels, coreset_ratio, projection, starts, distance. The defaults
    are those of the published code.
    """

    layers: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Backbone layers; the maps of all others are brought to the grid of the first. Default: a CNN's at "
        "strides 8 and 16, a ViT's blocks at one half and at three quarters of its depth.",
    )
    neighbourhood: int = Field(
        default=3, ge=1, description="Side, odd, of the square of map positions that make up one patch."
    )
    layer_channels: int = Field(default=1024, ge=1, description="Channels to which each layer's patches are pooled.")
    channels: int = Field(default=1024, ge=1, description="Channels to which the layers together are pooled.")
    coreset_ratio: float = Field(default=0.1, gt=0, le=1, description="Share of the training patches to remember.")
    projection: int = Field(
        default=128, ge=1, description="Width of the random projection in which the coreset is chosen."
    )
    starts: int = Field(default=10, ge=1, description="Random patches from which the choice of the coreset starts.")
    distance: Literal["squared", "euclidean"] = Field(
        default="squared",
        description="Patch scores: the squared distance to the memory, as in the published code, or the distance, as "
        "in the paper. Image scores rank alike; smoothed maps do not.",
    )

    @model_validator(mode="after")
    def _odd(self) -> Self:
        if self.neighbourhood % 2 == 0:
            raise ValueError(f"neighbourhood must be odd, so that a patch has a middle, not {self.neighbourhood}")
        return self
