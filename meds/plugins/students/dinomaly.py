"""Registers the student `dinomaly` and its options, without importing torch."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from meds.core.hookspecs import hookimpl
from meds.core.registry import Plugin
from meds.plugins.students.transformer_options import Count, TransformerOptions


class DinomalyOptions(TransformerOptions):
    """Options of Dinomaly (Guo et al., CVPR 2025); the defaults are the published values."""

    dropout: float = Field(default=0.2, ge=0, lt=1, description="Dropout of the bottleneck, which makes it noisy.")
    attention_epsilon: float = Field(
        default=1e-6,
        ge=0,
        description="Addend in the denominator of the linear attention; published: 0, which can end in NaN.",
    )
    discard_rate: float = Field(
        default=0.9,
        ge=0,
        lt=1,
        description="Share of well-rebuilt patches whose gradient is made small (hard mining); 0.5 where the "
        "training images are selected.",
    )
    discard_warmup: int = Field(default=1000, ge=0, description="Iterations in which that share rises from 0.")
    discard_factor: float = Field(default=0.1, ge=0, le=1, description="Factor of those patches' gradient.")
    learning_rate: float = Field(default=2e-3, gt=0, description="Highest learning rate.")
    final_learning_rate: float = Field(default=2e-4, ge=0, description="Learning rate at the end.")
    iterations: Count | None = Field(
        default=None, description="Optimiser steps; default: 10,000, or 5,000 for a student of a single class."
    )


@hookimpl
def meds_students() -> Sequence[Plugin]:
    """The student `dinomaly`."""
    return [
        Plugin(
            name="dinomaly",
            options=DinomalyOptions,
            load="meds.plugins.students.dinomaly_network:Dinomaly",
            summary="Dinomaly: a noisy bottleneck and a linear-attention decoder rebuild two groups of ViT layers.",
            selecting={"discard_rate": 0.5},
        )
    ]
