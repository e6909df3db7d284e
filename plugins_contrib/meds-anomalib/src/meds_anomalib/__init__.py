"""Registers the student `anomalib`, the backbone `pixels` and their options, without importing torch or anomalib."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from meds.api import Options, Plugin, hookimpl
from meds_anomalib.models import MODELS, REFUSED, suggestion

MEDS_API = 1
ANOMALIB = "anomalib"

OWN_ARGUMENTS = {
    "pre_trained": "set `pre_trained` of the student instead",
    "pre_processor": "the backbone `pixels` decides on the image size",
    "post_processor": "meds takes the scores before anomalib normalises them",
    "evaluator": "meds measures",
    "visualizer": "meds draws",
}


class PixelsOptions(Options):
    """Options of the backbone `pixels`."""

    image_size: int = Field(default=256, ge=8, description="Side of the square image in pixels.")
    resize: int | None = Field(
        default=None,
        ge=8,
        description="Side to which images are resized before the central `image_size` is cut; default: no cut.",
    )

    @model_validator(mode="after")
    def _cut_fits(self) -> Self:
        if self.resize is not None and self.resize < self.image_size:
            raise ValueError(f"resize ({self.resize}) must not be smaller than image_size ({self.image_size})")
        return self


class AnomalibOptions(Options):
    """Options of the student `anomalib`."""

    model: str = Field(
        description="A model of anomalib by the name of its class: " + ", ".join(sorted(MODELS)) + ".",
        json_schema_extra={"enum": [*sorted(MODELS)]},
    )
    init_args: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of the model's constructor, as in a configuration of anomalib."
    )
    pre_trained: bool = Field(
        default=True,
        description="Start from published weights that are on this machine; false: from random ones.",
    )
    weights: Path | None = Field(
        default=None,
        description="A local torch or safetensors file with timm's names, for the model's encoder. Default: weights "
        "that meds finds in an installed package, or timm in its own cache.",
    )
    batch_size: int = Field(default=32, ge=1, description="Images in a training batch; anomalib's default.")
    max_epochs: int | None = Field(default=None, ge=1, description="Length of a training in epochs.")
    max_steps: int | None = Field(default=None, ge=1, description="Length of a training in steps of its optimiser.")
    folds: int | None = Field(
        default=None,
        ge=0,
        description="Score each training image by a model that was fitted without it: so many models are fitted "
        "besides, each without its share of the images. 0: score training images like any other. Default: 4 for "
        "models that keep training patches, else 0.",
    )

    @field_validator("model")
    @classmethod
    def _known(cls, name: str) -> str:
        if name in REFUSED:
            raise ValueError(f"anomalib's {name} cannot be used in a meds run: {REFUSED[name]}")
        if name not in MODELS:
            raise ValueError(suggestion(name))
        return name

    @field_validator("init_args")
    @classmethod
    def _arguments(cls, given: dict[str, Any]) -> dict[str, Any]:
        for name, reason in OWN_ARGUMENTS.items():
            if name in given:
                raise ValueError(f"init_args must not hold '{name}': {reason}")
        return given

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        length = self.max_epochs or self.max_steps
        if MODELS[self.model].trained and length is None:
            raise ValueError(f"anomalib's {self.model} does not say how long to train it: set max_epochs or max_steps")
        if not MODELS[self.model].trained and length is not None:
            raise ValueError(f"anomalib's {self.model} has a length of its own: leave out max_epochs and max_steps")
        if self.weights is not None and not self.pre_trained:
            raise ValueError("weights and `pre_trained: false` exclude each other: leave out one")
        if self.folds == 1:
            raise ValueError("folds must be 0, or at least 2")
        return self

    def fold_count(self) -> int:
        """How many models are fitted to score the training images; 0 for none."""
        if self.folds is not None:
            return self.folds
        return 4 if MODELS[self.model].keeps_patches else 0


def _anomalib_version() -> str:
    """Part of the names of results: another anomalib may compute something else."""
    try:
        return version(ANOMALIB)
    except PackageNotFoundError:
        return "not installed"


@hookimpl
def meds_backbones() -> Sequence[Plugin]:
    """The backbone `pixels`."""
    return [
        Plugin(
            name="pixels",
            options=PixelsOptions,
            load="meds_anomalib.pixels:Pixels",
            summary="The image itself, for students that read images instead of features.",
        )
    ]


@hookimpl
def meds_students() -> Sequence[Plugin]:
    """The student `anomalib`."""
    return [
        Plugin(
            name="anomalib",
            options=AnomalibOptions,
            load="meds_anomalib.detector:AnomalibDetector",
            summary="A model of anomalib, fitted by anomalib on all training images: a baseline.",
            version=f"1, {ANOMALIB} {_anomalib_version()}",
        )
    ]
