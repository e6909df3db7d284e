"""What a checkpoint of a training holds: weights, optimiser, random generators, and where in which epoch it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from meds.core.epochs import EpochPlan
from meds.core.student import Student


@dataclass
class Place:
    """How far a training is: iterations done, the epoch, batches of it that are done, and the epoch's order."""

    iteration: int = 0
    epoch: int = -1
    batch: int = 0
    order: list[int] = field(default_factory=list)


def training_state(
    student: Student, optimiser: torch.optim.Optimizer, plan: EpochPlan, place: Place
) -> dict[str, Tensor]:
    """All that a training needs to go on in the same bits, as tensors by name."""
    position = torch.tensor([place.iteration, place.epoch, place.batch])
    state = {"position": position, "order": torch.tensor(place.order), "random.cpu": torch.get_rng_state()}
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


def restore_training(
    student: Student, optimiser: torch.optim.Optimizer, plan: EpochPlan, saved: Mapping[str, Tensor]
) -> Place:
    """Put everything as it was when `training_state` gave `saved`."""
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
    iteration, epoch, batch = (int(value) for value in saved["position"])
    return Place(iteration, epoch, batch, saved["order"].tolist())


def _below(saved: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}
