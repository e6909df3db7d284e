"""Registers the detector `patchcore` and its options, without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator

from meds.api import PatchMemoryOptions, Plugin, hookimpl

MEDS_API = 1


class PatchCoreOptions(PatchMemoryOptions):
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
