"""Registers the student `inp-former` and its options, without importing torch."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from meds.core.hookspecs import hookimpl
from meds.core.registry import Plugin
from meds.plugins.students.transformer_options import Count, TransformerOptions


class INPFormerOptions(TransformerOptions):
    """Options of INP-Former (Luo et al., CVPR 2025); the defaults are the published values."""

    prototypes: Count = Field(default=6, description="Intrinsic normal prototypes of an image.")
    gather_weight: float = Field(default=0.2, ge=0, description="Weight of the gathering loss.")
    mining_exponent: float = Field(
        default=3.0, ge=0, description="Power of distance / mean distance that weighs a patch's gradient."
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="Highest learning rate.")
    final_learning_rate: float = Field(default=1e-4, ge=0, description="Learning rate at the end.")
    epochs: Count = Field(
        default=200, description="Passes over the training images; 100 where the training images are selected."
    )


@hookimpl
def meds_students() -> Sequence[Plugin]:
    """The student `inp-former`."""
    return [
        Plugin(
            name="inp-former",
            options=INPFormerOptions,
            load="meds.plugins.students.inp_former_network:INPFormer",
            summary="INP-Former: every patch is rebuilt from a few normal prototypes of its own image.",
            selecting={"epochs": 100},
            # The scripts that the authors of MeDS released for this student differ from those for Dinomaly.
            stage_recipes={
                "released": {
                    "distill": {"loss": "l1"},
                    "select-finetune": {"critical_value": 1.0, "iterations": 10_000},
                }
            },
        )
    ]
