"""Registers the detector `patchcore` and its options, without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from meds.api import Options, Plugin, hookimpl

MEDS_API = 1


class MemoryOptions(Options):
    """Patch embedding, coreset and distance, which PatchCore and its relatives share; the published values."""

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


class PatchCoreOptions(MemoryOptions):
    """Options of PatchCore (Roth et al., CVPR 2022); the defaults are those of the published code."""

    neighbours: int = Field(
        default=1, ge=1, description="Patches of the memory over whose distances the mean is taken for a patch's score."
    )
    reweighting: int | None = Field(
        default=None,
        ge=2,
        description="Size of the neighbourhood in the memory by which the paper re-weights the image score (its eq. 7; "
        "9 is usual). Default: no re-weighting, as in the published code.",
    )

    @model_validator(mode="after")
    def _one_nearest(self) -> Self:
        if self.reweighting is not None and self.neighbours > 1:
            raise ValueError("reweighting starts from the nearest patch alone: leave out neighbours")
        return self


@hookimpl
def meds_students() -> Sequence[Plugin]:
    """The detector `patchcore`."""
    return [
        Plugin(
            name="patchcore",
            options=PatchCoreOptions,
            load="meds_patchcore.detector:PatchCore",
            recipes={"paper": {"distance": "euclidean", "reweighting": 9}},
            summary="PatchCore: the distance to a coreset of the training patches.",
        )
    ]
