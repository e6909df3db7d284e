"""Options of the stages that ship with meds."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from meds.core.registry import Options

BANKS = 100
RankedBy = Literal["student", "memory", "both"]


class MemoryOptions(Options):
    """Score every training patch by its distance to many sparse random memories (paper sec. 4.1)."""

    ratio: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="Share of a class's images (of its candidates, with `max_images`) in one bank.",
    )
    estimator: Literal["exact", "bootstrap"] = Field(
        default="exact",
        description="The limit of infinitely many banks in closed form, or `banks` random banks.",
    )
    banks: int = Field(default=BANKS, ge=1, description="Number of banks (bootstrap).")
    level: Literal["image", "patch"] = Field(
        default="image", description="Whether a bank is a random subset of images or of patches."
    )
    features: Literal["targets", "final"] = Field(
        default="targets", description="The student's teacher maps, or the encoder's final layer (the released code)."
    )
    grid: int = Field(
        default=28,
        ge=1,
        description="Finest patch grid that is searched; finer teacher maps are averaged down to it.",
    )
    pooling: Literal[1, 3, 5] | None = Field(
        default=None,
        description="Side of the window that features are averaged over; default: 3 for a CNN, 1 for a ViT.",
    )
    distance: Literal["cosine", "euclidean"] = Field(
        default="cosine", description="Distance of patches, for the memory and for the student alike."
    )
    self_match: bool = Field(
        default=False, description="Whether an image may be its own neighbour, or that of another copy of it."
    )
    replacement: bool = Field(default=False, description="Whether a bank draws its images with replacement.")
    bank_size: Literal["round", "ceil"] = Field(
        default="round", description="Rounding of ratio x images to the size of a bank."
    )
    max_images: int | None = Field(
        default=None,
        ge=2,
        description="Largest number of candidate images of a class (a seeded random choice).",
    )

    @model_validator(mode="after")
    def _banks_are_drawn(self) -> MemoryOptions:
        if self.banks != BANKS and self.estimator != "bootstrap":
            raise ValueError("banks has no effect with `estimator: exact`, the limit of many banks: set `bootstrap`")
        return self


class TrainingOptions(Options):
    """Length of a training; null leaves it to the student, that is to its paper."""

    iterations: int | None = Field(default=None, ge=1, description="Number of optimiser steps.")
    batch_size: int | None = Field(default=None, ge=1, description="Images in a step.")
    drop_last: bool | None = Field(default=None, description="Leave out an epoch's last, smaller batch.")


class HoldoutOptions(TrainingOptions):
    """A training that leaves some images out, so that a threshold can be measured on them."""

    holdout: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Share of each class's training images that are scored, and selected where a stage selects, but "
        "never trained on; the decision threshold comes from them. A class of fewer than 30 images holds none out. 0: "
        "train on all, and know nothing of the false-alarm rate.",
    )


class DistillOptions(TrainingOptions):
    """Train a random student to reproduce the memory's score maps (paper eq. 9)."""

    iterations: int | None = Field(default=500, ge=1, description="Number of optimiser steps.")
    loss: Literal["l2-norm", "mse", "l1"] = Field(
        default="l2-norm",
        description="Distance of score maps: the norm over the map (eq. 9), or a mean over patches.",
    )
    loss_weight: float = Field(default=1.0, gt=0, description="Factor of the loss.")


class FitOptions(HoldoutOptions):
    """Train a student on all images but those held out, as its paper does: the baseline."""

    iterations: int | None = Field(
        default=None,
        ge=0,
        description="Number of optimiser steps; 0 takes the student as it is, such as an official checkpoint.",
    )
    distance: Literal["cosine", "euclidean"] = Field(
        default="cosine", description="Distance of teacher and student patches in the score maps."
    )


class SelectFinetuneOptions(HoldoutOptions):
    """Fine-tune the student on images that it selects itself, epoch by epoch (paper eq. 10-13)."""

    drop_last: bool | None = Field(
        default=True,
        description="Leave out an epoch's last, smaller batch; null: the student's way. Selected sets leave rests of "
        "any size, and batch normalisation does not bear a batch of one or two images.",
    )
    batch_statistics: Literal["all", "selected"] = Field(
        default="all",
        description="Which images the running statistics of a student's batch normalisation are taken from when it "
        "scores: all training images that are not held out, or those that it last trained on. Of no effect without "
        "batch normalisation.",
    )
    scoring_interval: int | None = Field(
        default=None,
        ge=1,
        description="Score all training images anew at every n-th epoch; the epochs between select by the last scores, "
        "with the weight and threshold of their own iteration. Default: the smallest n that makes about ten passes or "
        "fewer; 1 is the paper's.",
    )
    critical_value: float = Field(default=1.0, ge=0, description="k: how many deviations the threshold grows to.")
    init: Literal["distilled", "random"] = Field(default="distilled", description="The student's first weights.")
    criterion: Literal["distilled", "memory"] = Field(
        default="distilled", description="Scores that the selection starts from."
    )
    rule: dict[str, Any] = Field(
        default={"type": "median-mad"},
        description="The selection rule.",
        json_schema_extra={"plugin": "selection rule"},
    )
    robust_maximum: float = Field(
        default=1.0, gt=0, le=100, description="Percent of patches whose mean is an image's score in the selection."
    )
    rounding: Literal["ceil", "floor"] = Field(default="ceil", description="Rounding of that number of patches.")
    minimum_selected: int = Field(
        default=2, ge=1, description="Fewest images of a class that may be selected and trained on."
    )


class EvaluateOptions(Options):
    """Score test and training images: metrics, predictions and the ranking of training images."""

    map_size: int | None = Field(default=None, ge=8, description="Side of the anomaly map; default: the student's.")
    smoothing: Literal["none", "gaussian", "gaussian5"] | None = Field(
        default=None, description="Smoothing of the map; default: the student's."
    )
    sigma: float | None = Field(default=None, gt=0, description="Width of the smoothing in pixels of the map.")
    image_score: Literal["max", "top", "pooled-max", "patch-max", "own"] | None = Field(
        default=None,
        description="Largest pixel, mean of the largest `top_fraction`, largest mean of a square of `pool_window` "
        "pixels a side, largest patch score before any resizing, or a detector's own image score; default: the "
        "student's.",
    )
    top_fraction: float | None = Field(default=None, gt=0, le=1, description="Share of pixels for `top`.")
    pool_window: int | None = Field(
        default=None, ge=1, description="Side of the square for `pooled-max` in pixels of the map."
    )
    mask_rule: Literal["half", "any"] | None = Field(
        default=None,
        description="Whether a resized mask's pixel is a defect if it is over one half or if it is anything but zero; "
        "default: the student's.",
    )
    mask_resize: Literal["bilinear", "nearest"] | None = Field(
        default=None, description="How masks are brought to the encoder's input; default: the student's."
    )
    aupro_limit: float = Field(default=0.3, gt=0, le=1, description="Largest false-positive rate in AUPRO.")
    false_alarm_rate: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description="Share of normal images that may be called anomalous; sets the threshold, from training images "
        "that were held out and are likely to be normal.",
    )
    ranking: RankedBy = Field(
        default="both",
        description="What training images are ranked by: the scores of the student as in the paper, of the memory, or "
        "the geometric mean of the two. Where the memory scores the images it ranks alone; `both` is the "
        "student where no memory was made.",
    )
    batch_size: int = Field(default=16, ge=1, description="Images scored at a time.")


MEMORY_RECIPES: dict[str, dict[str, Any]] = {
    "paper": {"distance": "euclidean", "estimator": "bootstrap"},
    "released": {
        "distance": "cosine",
        "estimator": "bootstrap",
        "features": "final",
        "replacement": True,
        "bank_size": "ceil",
        "self_match": True,
    },
}
DISTILL_RECIPES: dict[str, dict[str, Any]] = {
    "paper": {"loss": "l2-norm", "loss_weight": 1.0, "iterations": 500},
    "released": {"loss": "mse", "loss_weight": 10.0, "iterations": 10_000},
}
EVALUATE_RECIPES: dict[str, dict[str, Any]] = {"paper": {"ranking": "student"}, "released": {"ranking": "student"}}
FIT_RECIPES: dict[str, dict[str, Any]] = {
    "paper": {"distance": "euclidean", "holdout": 0.0},
    "released": {"distance": "cosine", "holdout": 0.0},
}
SELECT_FINETUNE_RECIPES: dict[str, dict[str, Any]] = {
    "paper": {
        "critical_value": 1.0,
        "rounding": "ceil",
        "drop_last": None,
        "holdout": 0.0,
        "scoring_interval": 1,
        "batch_statistics": "selected",
    },
    "released": {
        "critical_value": 3.0,
        "rounding": "floor",
        "drop_last": True,
        "holdout": 0.0,
        "scoring_interval": 1,
        "batch_statistics": "selected",
    },
}
