"""Which classes share a student, and how trained students of a run are saved and loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from meds.core.scoring import Distance, patch_distance
from meds.core.stage import Partition, Scorer, StageContext
from meds.core.store import Artifact
from meds.core.student import Student


def partitions_of(classes: Literal["unified", "separate"], class_names: Sequence[str]) -> tuple[Partition, ...]:
    """One partition of all classes, or one for each class."""
    if classes == "unified":
        return (Partition("all", tuple(range(len(class_names)))),)
    return tuple(Partition(name, (index,)) for index, name in enumerate(class_names))


def student_file(partition: Partition) -> str:
    """The artifact's file (without suffix) that holds a partition's student."""
    return "student" if partition.name == "all" else f"student.{partition.class_indices[0]:03d}"


def load_student(context: StageContext, artifact: Artifact, partition: Partition) -> Student:
    """The student of a partition with the artifact's weights, in evaluation mode."""
    student = context.new_student(partition.name)
    student.load_state_dict(artifact.tensors(student_file(partition)))
    student.eval()
    return student


class StudentScorer(Scorer):
    """Scores patches by comparing the teacher's maps with a student's reconstruction.

    `own_maps`: compare as the student's paper does, not by the distance that it shares with the memory.
    """

    def __init__(self, context: StageContext, students: Sequence[Student], distance: Distance, own_maps: bool) -> None:
        self._context, self._students, self._distance = context, students, distance
        self._own_maps = own_maps
        self.layers = context.student_layers()

    def group_maps(self, features: Sequence[Tensor], classes: Tensor) -> list[Tensor]:
        """Distance maps of each group, [B, H_i, W_i] float32."""
        result: list[Tensor] = []
        for partition, student in zip(self._context.partitions, self._students, strict=True):
            rows = [i for i, c in enumerate(classes.tolist()) if c in partition.class_indices]
            if not rows:
                continue
            part = [feature[rows] for feature in features]
            targets = student.targets(part)
            with self._context.runtime.autocast():
                outputs = student(part, classes[rows])
            if self._own_maps:
                maps = student.anomaly_maps(targets, outputs, self._distance)
            else:
                maps = [patch_distance(t, o, self._distance) for t, o in zip(targets, outputs, strict=True)]
            if not result:
                result = [m.new_zeros((len(classes), *m.shape[1:])) for m in maps]
            for whole, some in zip(result, maps, strict=True):
                whole[rows] = some
        return result


def student_scorer(context: StageContext, artifact: Artifact, own_maps: bool = True) -> StudentScorer:
    """The scorer of an artifact that holds students; for `own_maps` see `StudentScorer`."""
    students = [load_student(context, artifact, partition) for partition in context.partitions]
    return StudentScorer(context, students, artifact.info["distance"], own_maps)
