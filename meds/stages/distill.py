"""Stage distill: a student with random weights learns to reproduce the memory's score maps (paper eq. 9)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from meds.core.backbone import Backbone
from meds.core.checkpoint import Checkpoints
from meds.core.epochs import AllImages, stage_length
from meds.core.model import Model
from meds.core.partitions import StudentScorer, refuse_detector, student_file, student_scorer
from meds.core.reconstruct import reconstruct
from meds.core.scoring import Distance, resize_map, score_map
from meds.core.seeds import derive_seed
from meds.core.stage import Partition, Stage, StageContext
from meds.core.store import Artifact
from meds.core.student import Progress, Student
from meds.core.timing import training_seconds
from meds.core.training import Objective, train
from meds.stages.options import DistillOptions

_ANY_NUMBER = 10**6


class Distill(Stage):
    """Artifact kind "distilled-student": `student.safetensors` (one file a class if they are separate)."""

    produces = "distilled-student"
    options: DistillOptions

    def consumes(self) -> tuple[tuple[str, ...], ...]:
        """The memory's score maps."""
        return (("memory-scores",),)

    def check_model(self, name: str, model: type[Model], backbone: Backbone) -> None:  # noqa: ARG002
        """Only a network that reconstructs teacher maps can be trained here."""
        refuse_detector("distill", name, model)

    def run(self, context: StageContext) -> None:
        """Train one student for each partition of the classes."""
        memory = context.input("memory-scores")
        maps = memory.tensors("scores")["maps"]
        context.output.info.update(distance=memory.info["distance"])
        for partition in context.partitions:
            student = self._train(context.within(partition), partition, maps, memory)
            context.output.write_tensors(student_file(partition), student.state_dict())

    def _train(self, context: StageContext, partition: Partition, maps: Tensor, memory: Artifact) -> Student:
        student = context.new_student(partition.name)
        positions = partition.positions(context.data.train)
        samples = [context.data.train[i] for i in positions]
        length = stage_length(student, len(samples), self.options)
        seed = derive_seed(context.seed, "distill", partition.name)
        checkpoints = Checkpoints(context.work, f"distill-{partition.name}")
        plan = AllImages(len(samples), seed)
        train(
            context,
            student,
            samples,
            self._objective(context, maps[positions], memory.info["distance"]),
            plan,
            length,
            checkpoints,
            f"{context.name} ({partition.name})",
        )
        return student

    def _objective(self, context: StageContext, maps: Tensor, distance: Distance) -> Objective:
        """The loss between the memory's maps [n, H, W] of the samples and the student's."""

        def objective(
            student: Student, features: Sequence[Tensor], chosen: Sequence[int], classes: Tensor, _: Progress
        ) -> Tensor:
            wanted = context.runtime.put(maps[list(chosen)])
            targets, outputs = reconstruct(context.runtime, student, features, classes)
            return self.loss(wanted, score_map(targets, outputs, distance))

        return objective

    def loss(self, memory_maps: Tensor, student_maps: Tensor) -> Tensor:
        """Distance of score maps [B, H, W]; the memory's are resized to the student's grid."""
        wanted = resize_map(memory_maps, student_maps.shape[-2:])
        gap = (wanted - student_maps).flatten(1)
        values = {"l2-norm": lambda: gap.norm(dim=1), "mse": gap.square, "l1": gap.abs}
        value: Tensor = values[self.options.loss]().mean()
        return value * self.options.loss_weight

    def estimate_seconds(self, context: StageContext) -> float:
        """Iterations times a timed training step."""
        return training_seconds(context, self.options, self.timed_objective(context))

    def timed_objective(self, context: StageContext) -> Objective:
        """The objective with random maps in place of the memory's, of the finest grid, for any number of samples."""
        layers = [context.backbone.layer(name) for name in context.student_layers()]
        one = torch.rand(1, max(layer.height for layer in layers), max(layer.width for layer in layers))
        return self._objective(context, one.expand(_ANY_NUMBER, -1, -1), "cosine")

    def scorer(self, context: StageContext, artifact: Artifact) -> StudentScorer:
        """Scores with the distilled student, by the memory's distance: it has learned to reproduce nothing else."""
        return student_scorer(context, artifact, own_maps=False)
