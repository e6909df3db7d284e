"""The training loop that distill, fit and select-finetune share: visible, checkpointed, resumable to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from meds.core.checkpoint import Checkpoints
from meds.core.data import Sample
from meds.core.errors import MedsError, PluginError
from meds.core.seeds import derive_seed
from meds.core.stage import StageContext
from meds.core.student import Progress, Student, TrainingDefaults

TOLD_ITERATIONS = 10


class EpochPlan(Protocol):
    """Decides which images an epoch visits, and in which order."""

    def begin(self, epoch: int, progress: Progress, student: Student) -> Sequence[int]:
        """Positions in the list of samples, in the order of the visit; called at the start of every epoch."""

    def state(self) -> dict[str, Tensor]:
        """What it must remember over a restart."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` gave."""


class AllImages:
    """Every image once an epoch, in a seeded random order, but for those that are held out."""

    def __init__(self, count: int, seed: int, without: Collection[int] = ()) -> None:
        out = set(without)
        self.positions, self.seed = [i for i in range(count) if i not in out], seed

    def begin(self, epoch: int, progress: Progress, student: Student) -> Sequence[int]:  # noqa: ARG002
        """A permutation of the positions."""
        return shuffled(self.positions, self.seed, epoch)

    def state(self) -> dict[str, Tensor]:
        """Nothing: the order follows from seed and epoch."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to restore."""


@dataclass(frozen=True)
class TrainingLength:
    """Iterations, batch size and whether a last small batch is left out."""

    iterations: int
    batch_size: int
    drop_last: bool


Objective = Callable[[Student, Sequence[Tensor], Sequence[int], Tensor, Progress], Tensor]
"""(student, features, positions of the batch's samples, class indices, progress) -> scalar loss."""


def shuffled(positions: Sequence[int], seed: int, epoch: int) -> list[int]:
    """The positions in an order that depends on seed and epoch only."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    order = torch.randperm(len(positions), generator=generator).tolist()
    return [positions[i] for i in order]


def training_length(
    defaults: TrainingDefaults,
    count: int,
    iterations: int | None,
    batch_size: int | None,
    drop_last: bool | None,
) -> TrainingLength:
    """A stage's options over the student's defaults; epochs are turned into iterations for `count` images."""
    size = min(batch_size or defaults.batch_size, count)
    drop = defaults.drop_last if drop_last is None else drop_last
    an_epoch = count // size if drop else -(-count // size)
    published = defaults.iterations or an_epoch * (defaults.epochs or 1)
    return TrainingLength(published if iterations is None else iterations, size, drop)


class LengthOptions(Protocol):
    """What a training stage's options say of its length; None leaves it to the student."""

    @property
    def iterations(self) -> int | None:
        """Number of optimiser steps."""

    @property
    def batch_size(self) -> int | None:
        """Images in a step."""

    @property
    def drop_last(self) -> bool | None:
        """Whether an epoch's last, smaller batch is left out."""


def stage_length(student: Student, count: int, options: LengthOptions) -> TrainingLength:
    """The length of a stage's training of a student on `count` images."""
    return training_length(
        student.training_defaults(), count, options.iterations, options.batch_size, options.drop_last
    )


def batches_of(order: Sequence[int], length: TrainingLength) -> list[list[int]]:
    """Cut an epoch's order into batches; the small rest is dropped only if something else is left."""
    size = length.batch_size
    batches = [list(order[i : i + size]) for i in range(0, len(order), size)]
    if length.drop_last and len(batches) > 1 and len(batches[-1]) < size:
        batches.pop()
    return batches


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
    defaults = student.training_defaults()
    parameters = [p for p in student.parameters() if p.requires_grad]
    if not parameters:
        raise PluginError(f"{title}: {type(student).__name__} has no parameter that can be trained.")
    optimiser = defaults.optimiser(parameters)
    iteration, epoch, batch = 0, -1, 0
    order: list[int] = []
    torch.manual_seed(derive_seed(context.seed, "training"))
    saved = checkpoints.load()
    if saved is not None:
        iteration, epoch, batch = (int(value) for value in saved["position"])
        order = saved["order"].tolist()
        _restore(student, optimiser, plan, saved)
    batches = batches_of(order, length)
    student.train()
    with context.runtime.training_memory(), context.reporter.bar(title, length.iterations) as bar:
        bar.advance(iteration)
        while iteration < length.iterations:
            if batch >= len(batches):
                epoch, batch = epoch + 1, 0
                order = list(plan.begin(epoch, Progress(iteration, length.iterations), student))
                batches = batches_of(order, length)
                student.train()
            left = batches[batch : batch + length.iterations - iteration]
            reading = context.read_batches([samples[i] for i in positions] for positions in left)
            for positions, (chosen, features) in zip(left, reading, strict=True):
                for group in optimiser.param_groups:
                    group["lr"] = defaults.learning_rate(iteration, length.iterations)
                progress = Progress(iteration, length.iterations)
                loss = objective(student, features, positions, context.class_tensor(chosen), progress)
                _check_loss(loss, title, student)
                _step(loss, optimiser, parameters, defaults.clip_norm)
                # The one place where an accelerator is waited for; what a loss that is not finite does, is thrown away.
                value = _finite(loss, title, iteration)
                iteration, batch = iteration + 1, batch + 1
                bar.advance(1, note=f"loss {value:.4f}")
                _tell(context, title, iteration, length, value, optimiser)
                if checkpoints.due() and iteration < length.iterations:
                    position = torch.tensor([iteration, epoch, batch])
                    checkpoints.save(iteration, _state(student, optimiser, plan, position, order))
    student.eval()


def _tell(
    context: StageContext,
    title: str,
    iteration: int,
    length: TrainingLength,
    loss: float,
    optimiser: torch.optim.Optimizer,
) -> None:
    """The event of every tenth iteration and of the last."""
    if iteration % TOLD_ITERATIONS == 0 or iteration == length.iterations:
        context.emit(
            "iteration",
            stage=context.name,
            training=title,
            iteration=iteration,
            iterations=length.iterations,
            loss=loss,
            learning_rate=optimiser.param_groups[0]["lr"],
        )


def _check_loss(loss: object, title: str, student: Student) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        told = f"a tensor of the shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"{loss!r}"
        raise PluginError(
            f"{title}: the loss of {type(student).__name__} is {told}; it must be a tensor of one number that depends "
            "on the student's parameters."
        )


def _finite(loss: Tensor, title: str, iteration: int) -> float:
    value = float(loss.item())
    if not math.isfinite(value):
        raise MedsError(
            f"{title}: the loss is no longer a finite number at iteration {iteration}; "
            "try `precision: fp32` or a smaller learning rate."
        )
    return value


def _step(
    loss: Tensor, optimiser: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], clip_norm: float | None
) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, clip_norm)
    optimiser.step()


def _state(
    student: Student,
    optimiser: torch.optim.Optimizer,
    plan: EpochPlan,
    position: Tensor,
    order: Sequence[int],
) -> dict[str, Tensor]:
    state = {"position": position, "order": torch.tensor(order), "random.cpu": torch.get_rng_state()}
    device = next(student.parameters()).device
    if device.type == "cuda":
        state["random.cuda"] = torch.cuda.get_rng_state(device)
    state |= {f"student.{name}": value for name, value in student.state_dict().items()}
    state |= {f"plan.{name}": value for name, value in plan.state().items()}
    for index, values in optimiser.state_dict()["state"].items():
        for key, value in values.items():
            kind = "tensor" if isinstance(value, Tensor) else "number"
            state[f"optimiser.{index}.{kind}.{key}"] = torch.as_tensor(value)
    return state


def _restore(student: Student, optimiser: torch.optim.Optimizer, plan: EpochPlan, saved: Mapping[str, Tensor]) -> None:
    student.load_state_dict(_below(saved, "student."))
    plan.load_state(_below(saved, "plan."))
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for name, value in _below(saved, "optimiser.").items():
        index, kind, key = name.split(".", 2)
        parameter = parameters[int(index)]
        entry: dict[str, Any] = optimiser.state[parameter]
        if kind == "number":
            entry[key] = value.item()
        elif value.shape == parameter.shape:
            # The memory layout must be the parameter's: another layout may round differently.
            entry[key] = torch.empty_like(parameter, requires_grad=False, dtype=value.dtype).copy_(value)
        else:
            entry[key] = value
    torch.set_rng_state(saved["random.cpu"])
    device = next(student.parameters()).device
    if "random.cuda" in saved and device.type == "cuda":
        torch.cuda.set_rng_state(saved["random.cuda"], device)


def _below(saved: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}
