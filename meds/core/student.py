"""The student contract: a network that reconstructs the teacher's feature maps.

A student knows nothing of memory, distillation or selection.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from meds.core.backbone import Layer
from meds.core.errors import PluginError
from meds.core.model import EvaluationDefaults as EvaluationDefaults
from meds.core.model import Model
from meds.core.scoring import Distance, patch_distance


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

    def __post_init__(self) -> None:
        """PluginError unless exactly one of `iterations` and `epochs` is set, and there is a batch."""
        if (self.iterations is None) == (self.epochs is None):
            raise PluginError("TrainingDefaults: set exactly one of iterations and epochs.")
        if self.batch_size < 1:
            raise PluginError(f"TrainingDefaults: batch_size cannot be {self.batch_size!r}.")


class Student(nn.Module, Model):
    """Base class of all students.

    The constructor gets the options, the teacher's layers in the order of `layers_needed`, and the
    class names. Parameters must be initialised from torch's global generator (the caller seeds it).
    """

    def __init__(self, options: Any, layers: Sequence[Layer], class_names: Sequence[str]) -> None:
        nn.Module.__init__(self)
        Model.__init__(self, options, layers, class_names)

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

    def anomaly_maps(self, targets: Sequence[Tensor], outputs: Sequence[Tensor], distance: Distance) -> list[Tensor]:
        """Anomaly maps for evaluation from what the last forward pass made, [B, H_i, W_i] float32 for each group.

        Override it for a student whose paper measures differently; by default the patch distance. It is asked
        only of a student that was trained on its own loss: memory, distillation and selection always use the
        patch distance, which makes their scores comparable.
        """
        return [patch_distance(target, output, distance) for target, output in zip(targets, outputs, strict=True)]
