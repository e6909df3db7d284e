"""Stage fit: plain training of a student, or the own way of a detector, on all images; the baseline."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from meds.core.backbone import Backbone
from meds.core.calibration import held_out
from meds.core.checkpoint import Checkpoints
from meds.core.data import Sample
from meds.core.detector import Detector, TrainingFeatures
from meds.core.epochs import AllImages, stage_length
from meds.core.errors import PluginError
from meds.core.model import Model
from meds.core.partitions import detector_scorer, student_file, student_scorer
from meds.core.reconstruct import reconstruct
from meds.core.seeds import derive_seed
from meds.core.stage import Partition, Scorer, Stage, StageContext
from meds.core.store import Artifact
from meds.core.student import Progress, Student
from meds.core.timing import training_seconds
from meds.core.training import Objective, train
from meds.stages.options import FIT_RECIPES, FitOptions
from meds.stages.thresholds import write_held_out


def own_objective(context: StageContext) -> Objective:
    """The student's own loss between its targets and outputs (paper eq. 10)."""

    def objective(
        student: Student, features: Sequence[Tensor], _: Sequence[int], classes: Tensor, progress: Progress
    ) -> Tensor:
        targets, outputs = reconstruct(context.runtime, student, features, classes)
        return student.loss(targets, outputs, progress)

    return objective


class Fit(Stage):
    """Artifact kind "student": `student.safetensors` (one file a class if they are separate).

    `holdout.safetensors` holds `images` uint8 [n]: 1 for a training image that was not trained on.
    """

    produces = "student"
    options: FitOptions

    def check_model(self, name: str, model: type[Model], backbone: Backbone) -> None:  # noqa: ARG002
        """A detector has options of its own in place of the stage's; what a recipe sets nobody has asked for."""
        defaults = {key: field.default for key, field in type(self.options).model_fields.items()}
        # Of the recipes, the one from which the fewest options differ: nothing else says which the spec names.
        unasked = [defaults, *(defaults | recipe for recipe in FIT_RECIPES.values())]
        differing = (sorted(key for key, value in self.options if value != one[key]) for one in unasked)
        given = min(differing, key=len)
        if issubclass(model, Detector) and given:
            raise PluginError(
                f"The option '{given[0]}' of the stage `fit` is for students that are trained step by step, and "
                f"'{name}' is fitted in a way of its own: leave it out, and see the options of the student."
            )

    def run(self, context: StageContext) -> None:
        """Train one student, or fit one detector, for each partition of the classes."""
        context.output.info.update(distance=self.options.distance)
        kept_back: list[int] = []
        for partition in context.partitions:
            positions = partition.positions(context.data.train)
            samples = [context.data.train[i] for i in positions]
            own = context.within(partition)
            model = own.new_model(partition.name)
            if isinstance(model, Detector):
                training = TrainingFeatures(own, samples, partition.name)
                torch.manual_seed(training.seed)
                model.fit(training)
                state = model.state()
            else:
                assert isinstance(model, Student)
                out = held_out(samples, self.options.holdout, derive_seed(context.seed, partition.name))
                kept_back += [positions[i] for i in out]
                self._train(own, partition, model, samples, out)
                state = model.state_dict()
            context.output.write_tensors(student_file(partition), state)
        write_held_out(context, kept_back)

    def _train(
        self,
        context: StageContext,
        partition: Partition,
        student: Student,
        samples: Sequence[Sample],
        out: Sequence[int],
    ) -> None:
        train(
            context,
            student,
            samples,
            own_objective(context),
            AllImages(len(samples), derive_seed(context.seed, "fit", partition.name), out),
            stage_length(student, len(samples) - len(out), self.options),
            Checkpoints(context.work, f"fit-{partition.name}"),
            f"{context.name} ({partition.name})",
        )

    def estimate_seconds(self, context: StageContext) -> float | None:
        """Iterations times a timed training step; a detector cannot tell."""
        if issubclass(context.student_class, Detector):
            return None
        return training_seconds(context, self.options, own_objective(context), self.options.holdout)

    def scorer(self, context: StageContext, artifact: Artifact) -> Scorer:
        """Scores with the trained student or the fitted detector."""
        if issubclass(context.student_class, Detector):
            return detector_scorer(context, artifact)
        return student_scorer(context, artifact)
