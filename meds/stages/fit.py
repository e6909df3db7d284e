"""Stage fit: plain training of the student on all images, as its paper does it; the baseline."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from meds.core.checkpoint import Checkpoints
from meds.core.partitions import StudentScorer, student_file, student_scorer
from meds.core.seeds import derive_seed
from meds.core.stage import Stage, StageContext
from meds.core.store import Artifact
from meds.core.student import Progress, Student
from meds.core.training import AllImages, Objective, stage_length, train, training_seconds
from meds.stages.options import FitOptions


def own_objective(context: StageContext) -> Objective:
    """The student's own loss between its targets and outputs (paper eq. 10)."""

    def objective(
        student: Student, features: Sequence[Tensor], _: Sequence[int], classes: Tensor, progress: Progress
    ) -> Tensor:
        targets = student.targets(features)
        with context.runtime.autocast():
            outputs = student(features, classes)
        return student.loss(targets, outputs, progress)

    return objective


class Fit(Stage):
    """Artifact kind "student": `student.safetensors` (one file a class if they are separate)."""

    produces = "student"
    options: FitOptions

    def run(self, context: StageContext) -> None:
        """Train one student for each partition of the classes."""
        context.output.info.update(distance=self.options.distance)
        for partition in context.partitions:
            student = context.new_student(partition.name)
            samples = [context.data.train[i] for i in partition.positions(context.data.train)]
            length = stage_length(student, len(samples), self.options)
            train(
                context,
                student,
                samples,
                own_objective(context),
                AllImages(len(samples), derive_seed(context.seed, "fit", partition.name)),
                length,
                Checkpoints(context.work, f"fit-{partition.name}"),
                f"{context.name} ({partition.name})",
            )
            context.output.write_tensors(student_file(partition), student.state_dict())

    def estimate_seconds(self, context: StageContext) -> float:
        """Iterations times a timed training step."""
        return training_seconds(context, self.options)

    def scorer(self, context: StageContext, artifact: Artifact) -> StudentScorer:
        """Scores with the trained student."""
        return student_scorer(context, artifact)
