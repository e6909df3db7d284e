"""Which classes share a student, and how finished students and detectors of a run are saved, loaded and asked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from meds.core.detector import Detector
from meds.core.errors import PluginError
from meds.core.model import Model, Scores
from meds.core.reconstruct import reconstruct
from meds.core.scoring import Distance, patch_distance
from meds.core.stage import Partition, Scorer, StageContext
from meds.core.store import Artifact
from meds.core.student import Student

ModelT = TypeVar("ModelT", bound=Model)


def partitions_of(classes: Literal["unified", "separate"], class_names: Sequence[str]) -> tuple[Partition, ...]:
    """One partition of all classes, or one for each class."""
    if classes == "unified":
        return (Partition("all", tuple(range(len(class_names)))),)
    return tuple(Partition(name, (index,)) for index, name in enumerate(class_names))


def student_file(partition: Partition) -> str:
    """The artifact's file (without suffix) that holds a partition's student."""
    return "student" if partition.name == "all" else f"student.{partition.class_indices[0]:03d}"


def refuse_detector(stage: str, name: str, model: type[Model]) -> None:
    """PluginError if what stands under `student:` is no network that reconstructs teacher maps."""
    if not issubclass(model, Student):
        raise PluginError(
            f"The stage `{stage}` needs a student that reconstructs teacher maps, and '{name}' is fitted in a way of "
            "its own: use the stages fit and evaluate."
        )


def load_student(context: StageContext, artifact: Artifact, partition: Partition) -> Student:
    """The student of a partition with the artifact's weights, in evaluation mode."""
    student = context.without_weights().within(partition).new_student(partition.name)
    student.load_state_dict(artifact.tensors(student_file(partition)))
    student.eval()
    return student


class PartitionScorer(Scorer, Generic[ModelT]):
    """Asks the model of each image's partition and puts the answers together."""

    def __init__(self, context: StageContext, models: Sequence[ModelT]) -> None:
        self._context, self._models = context, models
        self.layers = context.student_layers()

    @abstractmethod
    def _ask(self, model: ModelT, features: Sequence[Tensor], classes: Tensor) -> Scores:
        """Scores of images of one partition; `classes` counts among the partition's classes."""

    def scores_of_class(self, features: Sequence[Tensor], index: int) -> Scores:
        """Scores of images of one class, known beforehand: nothing here depends on values, so that it can be traced."""
        for partition, model in zip(self._context.partitions, self._models, strict=True):
            if index in partition.class_indices:
                # A literal stays a constant when it is traced, which a filled tensor does not.
                return self._ask(model, features, torch.tensor([partition.index(index)] * len(features[0])))
        raise PluginError(f"No student of this run knows the class with the index {index}.")

    def modules(self) -> list[nn.Module]:
        """The networks among the models."""
        models: list[Any] = list(self._models)
        return [model for model in models if isinstance(model, nn.Module)]

    def scores(self, features: Sequence[Tensor], classes: Tensor) -> Scores:
        """Scores of images of any classes; see `Scorer.scores`."""
        answers = []
        for partition, model in zip(self._context.partitions, self._models, strict=True):
            rows = [i for i, c in enumerate(classes.tolist()) if c in partition.class_indices]
            if rows:
                own = torch.tensor([partition.index(c) for c in classes[rows].tolist()], device=classes.device)
                answers.append((rows, self._ask(model, [feature[rows] for feature in features], own)))
        return _together(len(classes), answers)


class StudentScorer(PartitionScorer[Student]):
    """Scores patches by comparing the teacher's maps with a student's reconstruction.

    `own_maps`: compare as the student's paper does, not by the distance that it shares with the memory.
    """

    def __init__(self, context: StageContext, students: Sequence[Student], distance: Distance, own_maps: bool) -> None:
        super().__init__(context, students)
        self._distance, self._own_maps = distance, own_maps

    def _ask(self, model: Student, features: Sequence[Tensor], classes: Tensor) -> Scores:
        targets, outputs = reconstruct(self._context.runtime, model, features, classes)
        if self._own_maps:
            return Scores(model.anomaly_maps(targets, outputs, self._distance))
        return Scores([patch_distance(t, o, self._distance) for t, o in zip(targets, outputs, strict=True)])


class DetectorScorer(PartitionScorer[Detector]):
    """Scores by detectors that were fitted in their own way."""

    def _ask(self, model: Detector, features: Sequence[Tensor], classes: Tensor) -> Scores:
        return model.score(features, classes)

    def training_scores(self) -> Scores | None:
        """What the detectors say of their own training images, None if they score them like any other."""
        train, answers = self._context.data.train, []
        for partition, model in zip(self._context.partitions, self._models, strict=True):
            known = model.training_scores()
            if known is None:
                return None
            answers.append((partition.positions(train), known))
        return _together(len(train), answers)


def student_scorer(context: StageContext, artifact: Artifact, own_maps: bool = True) -> StudentScorer:
    """The scorer of an artifact that holds students; for `own_maps` see `StudentScorer`."""
    students = [load_student(context, artifact, partition) for partition in context.partitions]
    return StudentScorer(context, students, artifact.info["distance"], own_maps)


def detector_scorer(context: StageContext, artifact: Artifact) -> DetectorScorer:
    """The scorer of an artifact that holds fitted detectors."""
    detectors = []
    for partition in context.partitions:
        model: Any = context.within(partition).new_model(partition.name)
        model.load_state(artifact.tensors(student_file(partition)), context.runtime.device)
        detectors.append(model)
    return DetectorScorer(context, detectors)


def _together(count: int, answers: Sequence[tuple[list[int], Scores]]) -> Scores:
    """Answers for some rows each -> one for all `count` rows."""
    if len(answers) == 1:
        return answers[0][1]
    maps = [
        _filled(count, [(rows, answer.maps[group]) for rows, answer in answers])
        for group in range(len(answers[0][1].maps))
    ]
    images = [(rows, answer.images) for rows, answer in answers if answer.images is not None]
    return Scores(maps, _filled(count, images) if len(images) == len(answers) else None)


def _filled(count: int, parts: Sequence[tuple[list[int], Tensor]]) -> Tensor:
    first = parts[0][1]
    whole = torch.zeros((count, *first.shape[1:]), dtype=first.dtype, device=first.device)
    for rows, values in parts:
        whole[rows] = values
    return whole
