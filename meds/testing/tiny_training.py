"""A few training steps of a student outside a run, its loss, and what its training defaults must fulfil."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from meds.core.student import Progress, Student, TrainingDefaults
from meds.testing.base import require

FEW_STEPS, ENOUGH_STEPS = 3, 30
TOTALS = (2, 10, 1000)
OPTIONAL_NUMBERS = ("iterations", "epochs", "clip_norm")


def optimiser_of(student: Any) -> Any:
    """The optimiser of a student's trainable parameters, made as a training makes it."""
    return student.training_defaults().optimiser([p for p in student.parameters() if p.requires_grad])


def train_steps(
    student: Any,
    features: Sequence[Tensor],
    classes: Tensor,
    steps: int,
    after_backward: Callable[[Any], None] = lambda _: None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> list[float]:
    """Train on one batch by the student's own optimiser, schedule and clipping; returns the losses."""
    torch.manual_seed(0)
    defaults = student.training_defaults()
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimiser = defaults.optimiser(parameters)
    student.train()
    losses = []
    for iteration in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = defaults.learning_rate(iteration, steps)
        targets = student.targets(features)
        with autocast():
            outputs = student(features, classes)
        loss = student.loss(targets, outputs, Progress(iteration, steps))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        after_backward(student)
        if defaults.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, defaults.clip_norm)
        optimiser.step()
        losses.append(loss.item())
    return losses


def loss_of(
    student: Any, features: Sequence[Tensor], classes: Tensor, state: Mapping[str, Tensor], total: int
) -> float:
    """The loss of a student with this state on a batch, as in the last step of a training, under a fixed seed."""
    student.load_state_dict(state)
    student.train()
    torch.manual_seed(1)
    outputs = student(features, classes)
    value: float = student.loss(student.targets(features), outputs, Progress(total - 1, total)).item()
    return value


def check_defaults(who: str, student: Student) -> None:
    """Every value of the training defaults can be used."""
    found = student.training_defaults()
    require(isinstance(found, TrainingDefaults), f"{who} must give TrainingDefaults, not {type(found).__name__}.")
    for name in OPTIONAL_NUMBERS:
        value = getattr(found, name)
        require(value is None or value > 0, f"{who} trains with {name} = {value}, which must be over 0.")
    optimiser = found.optimiser([parameter for parameter in student.parameters() if parameter.requires_grad])
    require(
        isinstance(optimiser, torch.optim.Optimizer),
        f"{who} must make a torch optimiser for its parameters, not {type(optimiser).__name__}.",
    )
    for total in {*TOTALS, found.iterations or TOTALS[-1]}:
        _check_rate(who, found.learning_rate, total)


def _check_rate(who: str, rate: Callable[[int, int], float], total: int) -> None:
    # A long training is looked at in steps, the first hundred iterations one by one.
    places = [*range(min(total, 100)), *range(100, total, max(1, total // 1000))]
    rates = [float(rate(place, total)) for place in places]
    require(
        all(math.isfinite(value) and value >= 0 for value in rates),
        f"{who} has a learning rate that is negative or not finite in a training of {total} iterations.",
    )
    require(max(rates) > 0, f"{who} has a learning rate of 0 throughout a training of {total} iterations.")
    require(
        [float(rate(place, total)) for place in reversed(places)] == rates[::-1],
        f"{who} has a learning rate that depends on what was asked before: a resumed training would differ.",
    )
