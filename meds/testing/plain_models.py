"""The kit's own students and detector, for checks of plugins that are neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from meds.core.backbone import Backbone, Layer
from meds.core.detector import Detector, TrainingFeatures
from meds.core.hookspecs import hookimpl
from meds.core.model import Scores
from meds.core.registry import Options, Plugin
from meds.core.student import EvaluationDefaults, Progress, Student, TrainingDefaults

STUDENT, OTHER_STUDENT, DETECTOR = "plain-student", "other-student", "plain-detector"


class PlainStudent(Student):
    """Rebuilds the final map of any encoder from half as many channels."""

    def __init__(self, options: Any, layers: Sequence[Layer], class_names: Sequence[str]) -> None:
        super().__init__(options, layers, class_names)
        channels = layers[0].channels
        half = max(1, channels // 2)
        self.network = nn.Sequential(nn.Conv2d(channels, half, 1), nn.GELU(), nn.Conv2d(half, channels, 1))

    @classmethod
    def layers_needed(cls, options: Any, backbone: Backbone) -> tuple[str, ...]:  # noqa: ARG003
        """The final layer."""
        return (backbone.final_layer,)

    def targets(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The map itself."""
        return [features[0].detach()]

    def forward(self, features: Sequence[Tensor], classes: Tensor) -> list[Tensor]:  # noqa: ARG002
        """The map, rebuilt."""
        return [self.network(features[0])]

    def loss(self, targets: Sequence[Tensor], outputs: Sequence[Tensor], progress: Progress) -> Tensor:  # noqa: ARG002
        """Mean of 1 - cos."""
        return (1 - torch.cosine_similarity(targets[0], outputs[0].float(), dim=1)).mean()

    def training_defaults(self) -> TrainingDefaults:
        """AdamW at a constant rate."""
        return TrainingDefaults(torch.optim.AdamW, lambda iteration, total: 0.01, batch_size=4, iterations=8)  # noqa: ARG005

    def evaluation_defaults(self) -> EvaluationDefaults:
        """The largest pixel, no smoothing."""
        return EvaluationDefaults(map_size=32, smoothing="none")


class OtherStudent(PlainStudent):
    """The same of the map before the final one: what looks at the student notices."""

    @classmethod
    def layers_needed(cls, options: Any, backbone: Backbone) -> tuple[str, ...]:  # noqa: ARG003
        """The layer before the last."""
        return (backbone.layers[-2].name,)


class PlainDetector(Detector):
    """Distance of a patch to the mean of all training patches of the encoder's final map."""

    @classmethod
    def layers_needed(cls, options: Any, backbone: Backbone) -> tuple[str, ...]:  # noqa: ARG003
        """The final layer."""
        return (backbone.final_layer,)

    def fit(self, training: TrainingFeatures) -> None:
        """Take the mean."""
        means = [maps[0].mean(dim=(2, 3)) for _, maps in training.batches(4)]
        self.mean = torch.cat(means).mean(dim=0)

    def score(self, features: Sequence[Tensor], classes: Tensor) -> Scores:  # noqa: ARG002
        """Distances [B, H, W]."""
        return Scores([(features[0] - self.mean[None, :, None, None]).square().sum(dim=1).sqrt()])

    def state(self) -> dict[str, Tensor]:
        """The mean."""
        return {"mean": self.mean}

    def load_state(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Take over a mean."""
        self.mean = state["mean"].to(device)

    def evaluation_defaults(self) -> EvaluationDefaults:
        """The largest pixel, no smoothing."""
        return EvaluationDefaults(map_size=32, smoothing="none")


@hookimpl
def meds_students() -> list[Plugin]:
    """The students `plain-student` and `other-student`, and the detector `plain-detector`."""
    return [
        Plugin(STUDENT, Options, f"{__name__}:{PlainStudent.__name__}", "The kit's own student."),
        Plugin(OTHER_STUDENT, Options, f"{__name__}:{OtherStudent.__name__}", "The kit's second student."),
        Plugin(DETECTOR, Options, f"{__name__}:{PlainDetector.__name__}", "The kit's own detector."),
    ]
