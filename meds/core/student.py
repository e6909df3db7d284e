"""The student contract: a network that reconstructs the teacher's feature maps.

A student knows nothing of memory, distillation or selection.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from meds.core.backbone import Backbone, Layer
from meds.core.registry import Options

if TYPE_CHECKING:
    from meds.core.scoring import Distance


@dataclass(frozen=True)
class Progress:
    """Where training stands: `iteration` counts from 0, `total` is the number of iterations of the stage."""

    iteration: int
    total: int


@dataclass(frozen=True)
class TrainingDefaults:
    """How a student's paper trains it.

    `optimiser` makes the optimiser for the trainable parameters; `learning_rate(iteration, total)` is
    a pure function, so that a resumed run needs no scheduler state. Exactly one of `iterations` and
    `epochs` is set. `clip_norm` is the largest gradient norm, None for no clipping.
    """

    optimiser: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    learning_rate: Callable[[int, int], float]
    batch_size: int
    iterations: int | None = None
    epochs: int | None = None
    clip_norm: float | None = None
    drop_last: bool = False


@dataclass(frozen=True)
class EvaluationDefaults:
    """How a student's paper turns score maps into figures.

    Each group's map is resized to `resize` (None: `map_size` at once) with align_corners as given and
    averaged, then resized to `map_size` with align_corners=False, then smoothed. `smoothing` is "none",
    "gaussian" (scipy's gaussian_filter, reflecting borders) or "gaussian5" (a 5x5 kernel with zero
    padding), with `sigma` in pixels. `image_score` is "max", the mean of the largest `top_fraction` of the
    pixels ("top") or the largest mean of a square of `pool_window` pixels a side that lies wholly on the map
    ("pooled-max"). `mask_rule`: a resized mask pixel counts as a defect if it is over one half or if it
    is anything but zero.
    """

    map_size: int = 256
    resize: int | None = None
    align_corners: bool = True
    smoothing: Literal["none", "gaussian", "gaussian5"] = "gaussian"
    sigma: float = 4.0
    image_score: Literal["max", "top", "pooled-max"] = "max"
    top_fraction: float = 0.01
    pool_window: int = 16
    mask_rule: Literal["half", "any"] = "half"


class Student(nn.Module, ABC):
    """Base class of all students.

    The constructor gets the options, the teacher's layers in the order of `layers_needed`, and the
    class names. Parameters must be initialised from torch's global generator (the caller seeds it).
    """

    options_model: ClassVar[type[Options]] = Options

    def __init__(self, options: Any, layers: Sequence[Layer], class_names: Sequence[str]) -> None:
        super().__init__()
        self.options = options
        self.layers = tuple(layers)
        self.class_names = tuple(class_names)

    @classmethod
    @abstractmethod
    def layers_needed(cls, options: Any, backbone: Backbone) -> tuple[str, ...]:
        """Names of the backbone's layers that it reads; PluginError if the backbone cannot serve it."""

    @abstractmethod
    def targets(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The teacher maps that it reconstructs, one [B, C_i, H_i, W_i] for each group; no gradient."""

    @abstractmethod
    def forward(self, features: Sequence[Tensor], classes: Tensor) -> list[Tensor]:
        """Reconstructions with the shapes of `targets`. `classes` [B] int64 are class indices."""

    @abstractmethod
    def loss(self, targets: Sequence[Tensor], outputs: Sequence[Tensor], progress: Progress) -> Tensor:
        """The scalar objective of the student's paper."""

    @abstractmethod
    def training_defaults(self) -> TrainingDefaults:
        """Optimiser, schedule, batch size and length of the student's paper."""

    @abstractmethod
    def evaluation_defaults(self) -> EvaluationDefaults:
        """Map size, smoothing and image score of the student's paper."""

    def anomaly_maps(self, targets: Sequence[Tensor], outputs: Sequence[Tensor], distance: Distance) -> list[Tensor]:
        """Anomaly maps for evaluation from what the last forward pass made, [B, H_i, W_i] float32 for each group.

        Override it for a student whose paper measures differently; by default the patch distance. It is asked
        only of a student that was trained on its own loss: memory, distillation and selection always use the
        patch distance, which makes their scores comparable.
        """
        # scoring needs EvaluationDefaults from this module.
        from meds.core.scoring import patch_distance

        return [patch_distance(target, output, distance) for target, output in zip(targets, outputs, strict=True)]
