"""Registers the detector `fun-ad` and its options, without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from meds.api import Options, Plugin, hookimpl

MEDS_API = 1


class FunADOptions(Options):
    """Options of FUN-AD (Im et al., WACV 2025)."""

    layers: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Backbone layers whose patches are joined. Default: a ViT's final one, a CNN's at strides 8, 16.",
    )
    grid: int | None = Field(
        default=None,
        ge=1,
        description="Side of the grid of patches. Default: the finest layer's, of a CNN at most 14; published: 28.",
    )
    image_vector: Literal["auto", "class-token", "mean"] = Field(
        default="auto",
        description="What is joined to every patch of an image: the class token of a ViT's last block, as published, "
        "or the mean of the image's patches; auto: the class token if there is one.",
    )
    standardise: bool | None = Field(
        default=None,
        description="Bring every channel to mean 0 and variance 1 over all training patches. Default: for a CNN, whose "
        "maps have any scale; a ViT's final layer has one.",
    )
    hidden: tuple[int, int] = Field(default=(1024, 128), description="Widths of the discriminator's two hidden layers.")
    epochs: int = Field(
        default=50, ge=1, description="Passes over the training images; published: 1500 (default of its command: 200)."
    )
    batch_size: int = Field(default=32, ge=2, description="Images in a step; a last, smaller batch is left out.")
    learning_rate: float = Field(default=2e-5, gt=0, description="Learning rate of RMSprop.")
    momentum: float = Field(default=0.2, ge=0, lt=1, description="Momentum of RMSprop.")
    candidate_threshold: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Images whose score, brought to 0..1 over all training images, is below this may enter the memory.",
    )
    memory_share: float = Field(default=0.5, gt=0, le=1, description="Share of those that are drawn for the memory.")
    rescore_every: int = Field(
        default=1,
        ge=1,
        description="Iterations after which the scores of all training images are computed again; the memory is drawn "
        "and computed anew in every iteration. Published: 1.",
    )
    zero_below: float = Field(
        default=0.01,
        ge=0,
        description="Squared distances to the memory below this count as 0, and a patch at 0 as the patch itself.",
    )
    threshold: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="Patches whose distance, brought to 0..1 over the batch, is above this are taken for anomalous.",
    )
    noise_threshold: float = Field(
        default=0.9, ge=0, le=1, description="Of these, noise is added to those whose distance is below this."
    )
    noise_in_place: bool = Field(
        default=False,
        description="Let the noise reach the smoothness term too, as the published code does by mistake.",
    )
    smoothness_weight: float = Field(default=2.5, ge=0, description="Weight of the mutual smoothness.")

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if min(self.hidden) < 1:
            raise ValueError(f"hidden must be two widths of at least 1, not {list(self.hidden)}")
        return self


@hookimpl
def meds_students() -> Sequence[Plugin]:
    """The detector `fun-ad`."""
    return [
        Plugin(
            name="fun-ad",
            options=FunADOptions,
            load="meds_fun_ad.detector:FunAD",
            recipes={"released": {"epochs": 1500, "noise_in_place": True}},
            summary="FUN-AD: a patch discriminator trained on labels that it guesses itself.",
        )
    ]
