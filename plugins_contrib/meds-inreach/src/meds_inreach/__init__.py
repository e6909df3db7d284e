"""Registers the detector `inreach` and its options, without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from meds.api import Options, Plugin, hookimpl

MEDS_API = 1


class InReaChOptions(Options):
    """Options of InReaCh (McIntosh and Albu, ICCV 2023)."""

    layers: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Backbone layers whose patches are joined. Default: a CNN's at strides 4, 8, 16 and 32, a ViT's "
        "blocks at a quarter, half and three quarters of its depth.",
    )
    grid: int | None = Field(
        default=None,
        ge=2,
        description="Side of the grid of patches. Default: the finest layer's, but at most 14; published: 56.",
    )
    neighbourhood: int = Field(
        default=3, ge=1, description="Side, odd, of the square of map positions that make up one patch."
    )
    layer_channels: int = Field(default=1024, ge=1, description="Channels to which each layer's patches are pooled.")
    channels: int | None = Field(
        default=None,
        ge=1,
        description="Channels to which the layers together are pooled. Default: as many as the layers have together, "
        "but at most 1024; published: 1024.",
    )
    position: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Whether a patch's place belongs to its vector; auto: if the mean training image differs from "
        "its own transpose.",
    )
    position_threshold: float = Field(
        default=1000.0, ge=0, description="Mean squared difference, of grey values up to 255, from which it does."
    )
    position_range: float = Field(
        default=5.0, gt=0, description="What the two numbers of the place would reach at the far edge of the grid."
    )
    seeds: int = Field(default=10, ge=1, description="Images of each class whose patches begin channels.")
    seed_images: Literal["random", "first"] = Field(
        default="random", description="Seeded random images, or the first ones of the list, as published."
    )
    best_seed: Literal["mutual", "any"] = Field(
        default="mutual",
        description="Among which nearest neighbours a patch's best seed is looked for; any: as published, so that a "
        "patch whose best neighbour is not mutual joins no channel.",
    )
    swapped_indices: bool = Field(
        default=False,
        description="Exchange the patch of the seed and the patch of the other image when channels are put together, "
        "as the published code does by mistake.",
    )
    min_channel_length: int = Field(default=3, ge=0, description="A channel is kept if it has more patches than this.")
    max_channel_std: float = Field(
        default=5.0,
        gt=0,
        description="A patch is kept if its distance to the channel's mean is below this many times the channel's "
        "spread.",
    )
    spread: Literal["std", "rms"] = Field(
        default="std",
        description="A channel's spread: the standard deviation of the distances to its mean, as published, or their "
        "root mean square.",
    )
    distance: Literal["squared", "euclidean"] = Field(
        default="squared", description="Patch scores: the squared distance to the memory, as published, or its root."
    )

    @model_validator(mode="after")
    def _odd(self) -> Self:
        if self.neighbourhood % 2 == 0:
            raise ValueError(f"neighbourhood must be odd, so that a patch has a middle, not {self.neighbourhood}")
        return self

    @model_validator(mode="after")
    def _place(self) -> Self:
        for name, used in (
            ("position_threshold", self.position == "auto"),
            ("position_range", self.position != "never"),
        ):
            if not used and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with `position: {self.position}`: leave it out")
        return self


@hookimpl
def meds_students() -> Sequence[Plugin]:
    """The detector `inreach`."""
    return [
        Plugin(
            name="inreach",
            options=InReaChOptions,
            load="meds_inreach.detector:InReaCh",
            recipes={
                "released": {
                    "grid": 56,
                    "channels": 1024,
                    "seed_images": "first",
                    "best_seed": "any",
                    "swapped_indices": True,
                }
            },
            summary="InReaCh: the distance to patches that many training images agree on.",
        )
    ]
