"""Registers the detector `softpatch` and its options, without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from meds.api import PatchMemoryOptions, Plugin, hookimpl

MEDS_API = 1

LOF_K = 5


class SoftPatchOptions(PatchMemoryOptions):
    """Options of SoftPatch (Jiang et al., NeurIPS 2022); the defaults are what the published code does."""

    discriminator: Literal["lof", "nearest", "gaussian"] = Field(
        default="lof",
        description="How a patch is compared with those at the same place in the other images of its class: local "
        "outlier factor, 1 + distance to the nearest, or 1 + Mahalanobis distance to their mean.",
    )
    lof_k: int = Field(default=LOF_K, ge=1, description="Neighbours of the local outlier factor; only for `lof`.")
    threshold: float = Field(
        default=0.15,
        ge=0,
        lt=1,
        description="Share of each class's patches, the most outlying, that is left out.",
    )
    soft_weights: bool = Field(
        default=True, description="Whether a remembered patch's outlier factor multiplies the distances to it."
    )
    removed_may_start: bool = Field(
        default=False,
        description="Let the first pick of the coreset be a patch that was to be removed, as in the published code.",
    )

    @model_validator(mode="after")
    def _used(self) -> Self:
        if self.discriminator != "lof" and self.lof_k != LOF_K:
            raise ValueError(f"lof_k is for the discriminator lof, not for {self.discriminator}: leave it out")
        return self


@hookimpl
def meds_students() -> Sequence[Plugin]:
    """The detector `softpatch`."""
    return [
        Plugin(
            name="softpatch",
            options=SoftPatchOptions,
            load="meds_softpatch.detector:SoftPatch",
            summary="SoftPatch: PatchCore without the training patches that are outliers at their place.",
        )
    ]
