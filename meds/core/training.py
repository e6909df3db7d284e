"""The training loop that distill, fit and select-finetune share: visible, checkpointed, resumable to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from meds.core.checkpoint import Checkpoints
from meds.core.data import Sample
from meds.core.epochs import EpochPlan, TrainingLength, batches_of
from meds.core.errors import MedsError, PluginError
from meds.core.seeds import derive_seed
from meds.core.stage import StageContext
from meds.core.student import Progress, Student
from meds.core.training_state import Place, restore_training, training_state

TOLD_ITERATIONS = 10

Objective = Callable[[Student, Sequence[Tensor], Sequence[int], Tensor, Progress], Tensor]
"""(student, features, positions of the batch's samples, class indices, progress) -> scalar loss."""


def train(
    context: StageContext,
    student: Student,
    samples: Sequence[Sample],
    objective: Objective,
    plan: EpochPlan,
    length: TrainingLength,
    checkpoints: Checkpoints,
    title: str,
) -> None:
    """Train a student in place, from the newest checkpoint if there is one.

    The order of images is a pure function of seed and epoch, the learning rate of the iteration; what
    else moves (weights, optimiser, random generator, the epoch's order) is in the checkpoint.
    """
    steps = _Steps(context, student, objective, length, title)
    # Of its own for every stage and student: two trainings must not drop out the same units.
    torch.manual_seed(derive_seed(context.seed, "training", checkpoints.name))
    saved = checkpoints.load()
    place = Place() if saved is None else restore_training(student, steps.optimiser, plan, saved)
    batches = batches_of(place.order, length)
    student.train()
    with context.runtime.training_memory(), context.reporter.bar(title, length.iterations) as bar:
        bar.advance(place.iteration)
        while place.iteration < length.iterations:
            if place.batch >= len(batches):
                progress = Progress(place.iteration, length.iterations)
                place.epoch, place.batch = place.epoch + 1, 0
                place.order = list(plan.begin(place.epoch, progress, student))
                batches = batches_of(place.order, length)
                student.train()
            left = batches[place.batch : place.batch + length.iterations - place.iteration]
            reading = context.read_batches([samples[i] for i in positions] for positions in left)
            for positions, (chosen, features) in zip(left, reading, strict=True):
                loss = steps.step(place.iteration, features, positions, context.class_tensor(chosen))
                place.iteration, place.batch = place.iteration + 1, place.batch + 1
                bar.advance(1, note=f"loss {loss:.4f}")
                steps.tell(place.iteration, loss)
                if checkpoints.due() and place.iteration < length.iterations:
                    checkpoints.save(place.iteration, training_state(student, steps.optimiser, plan, place))
    student.eval()


class _Steps:
    """The optimiser's steps of one training."""

    def __init__(
        self, context: StageContext, student: Student, objective: Objective, length: TrainingLength, title: str
    ) -> None:
        self._context, self._student, self._objective = context, student, objective
        self._iterations, self._title = length.iterations, title
        self._defaults = student.training_defaults()
        self._parameters = [p for p in student.parameters() if p.requires_grad]
        if not self._parameters:
            raise PluginError(f"{title}: {type(student).__name__} has no parameter that can be trained.")
        self.optimiser = self._defaults.optimiser(self._parameters)

    def step(self, iteration: int, features: Sequence[Tensor], positions: Sequence[int], classes: Tensor) -> float:
        """One step on a batch; returns its loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = self._defaults.learning_rate(iteration, self._iterations)
        progress = Progress(iteration, self._iterations)
        loss = self._objective(self._student, features, positions, classes, progress)
        self._check(loss)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self._defaults.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._defaults.clip_norm)
        self.optimiser.step()
        # The one place where an accelerator is waited for; what a loss that is not finite does, is thrown away.
        value = float(loss.item())
        if not math.isfinite(value):
            raise MedsError(
                f"{self._title}: the loss is no longer a finite number at iteration {iteration}; "
                "try `precision: fp32` or a smaller learning rate."
            )
        return value

    def tell(self, iteration: int, loss: float) -> None:
        """The event of every tenth iteration and of the last."""
        if iteration % TOLD_ITERATIONS == 0 or iteration == self._iterations:
            self._context.emit(
                "iteration",
                stage=self._context.name,
                training=self._title,
                iteration=iteration,
                iterations=self._iterations,
                loss=loss,
                learning_rate=self.optimiser.param_groups[0]["lr"],
            )

    def _check(self, loss: object) -> None:
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            told = f"a tensor of the shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"{loss!r}"
            raise PluginError(
                f"{self._title}: the loss of {type(self._student).__name__} is {told}; it must be a tensor of one "
                "number that depends on the student's parameters."
            )
