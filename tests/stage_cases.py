"""A stage's surroundings in memory, which the tests of the stages share: features, a linear student, a context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from meds.core.backbone import Layer
from meds.core.data import RunData, Sample
from meds.core.dataset import Record
from meds.core.partitions import partitions_of
from meds.core.reporter import SilentReporter
from meds.core.runtime import Runtime
from meds.core.stage import StageContext
from meds.core.store import ArtifactWriter
from meds.core.student import EvaluationDefaults, Progress, Student, TrainingDefaults
from meds.plugins.selection import MedianMad, MedianMadOptions


class LinearStudent(Student):
    """Reconstructs every layer with a 1x1 convolution of its own."""

    def __init__(self, options: Any, layers: Sequence[Any], class_names: Sequence[str]) -> None:
        super().__init__(options, layers, class_names)
        self.maps = nn.ModuleList(nn.Conv2d(layer.channels, layer.channels, 1) for layer in layers)

    @classmethod
    def layers_needed(cls, options: Any, backbone: Any) -> tuple[str, ...]:
        return tuple(layer.name for layer in backbone.layers)

    def targets(self, features: Sequence[Tensor]) -> list[Tensor]:
        return list(features)

    def forward(self, features: Sequence[Tensor], classes: Tensor) -> list[Tensor]:
        return [convolution(feature) for convolution, feature in zip(self.maps, features, strict=True)]

    def loss(self, targets: Sequence[Tensor], outputs: Sequence[Tensor], progress: Progress) -> Tensor:
        return sum(((t - o) ** 2).mean() for t, o in zip(targets, outputs, strict=True))

    def training_defaults(self) -> TrainingDefaults:
        return TrainingDefaults(lambda p: torch.optim.Adam(p), lambda iteration, total: 0.02, 4, iterations=10)

    def evaluation_defaults(self) -> EvaluationDefaults:
        return EvaluationDefaults(map_size=8)


class MemoryFeatures:
    """Stands for the feature cache: the maps of a layer by the digest "0", "1" and so on."""

    def __init__(self, layers: Sequence[Tensor]) -> None:
        self.layers = {f"layer{i}": layer for i, layer in enumerate(layers)}

    def read(self, digests: Sequence[str], layer: str) -> Tensor:
        return self.layers[layer][[int(digest) for digest in digests]]


def make_context(
    layers: Sequence[Tensor],
    classes: Sequence[str],
    folder: Path,
    inputs: Mapping[str, Any] | None = None,
    student_class: type[Student] = LinearStudent,
) -> StageContext:
    """A context whose training images are the rows of `layers` [n, C, H, W], of the given classes."""
    names = tuple(sorted(set(classes)))
    samples = tuple(
        Sample(Record(f"{name}/{i}.png", name, "train"), str(i), names.index(name)) for i, name in enumerate(classes)
    )
    shapes = [Layer(f"layer{i}", m.shape[1], m.shape[2], m.shape[3]) for i, m in enumerate(layers)]
    return StageContext(
        name="stage",
        seed=0,
        data=RunData(names, samples, (), {}),
        partitions=partitions_of("unified", names),
        backbone=SimpleNamespace(
            family="cnn",
            name="memory",
            layers=tuple(shapes),
            final_layer=shapes[-1].name,
            layer=lambda name: shapes[int(name.removeprefix("layer"))],
        ),
        features=MemoryFeatures(layers),
        runtime=Runtime("cpu", "fp32", 1),
        reporter=SilentReporter(),
        student_class=student_class,
        student_options=None,
        selection_rule=lambda block: MedianMad(MedianMadOptions(**{k: v for k, v in block.items() if k != "type"})),
        inputs=inputs or {},
        output=ArtifactWriter(folder / "output"),
        work=folder / "work",
        emit=lambda event, **facts: None,
        scorer_of=lambda artifact: None,
    )


def stored(**tensors: Tensor) -> Any:
    """An artifact with one file of these tensors, for the distance `cosine`."""
    return SimpleNamespace(tensors=lambda name: dict(tensors), info={"distance": "cosine"}, manifest={"files": {}})
