"""Compares the four students with the recorded numbers of their authors' code and prints the table of the docs.

    python benchmarks/parity.py

Outputs, loss and gradients are compared in float32; three optimiser steps in float64, where rounding cannot hide a
difference. A relative difference is the largest gap over the largest recorded value of the same tensor.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import test_student_dinomaly as dinomaly
import test_student_hvq as hvq
import test_student_inp_former as inp_former
import test_student_rd as rd
from hvq_cases import loss_of

from meds.core.student import Progress

Pairs = Iterable[tuple[Tensor, Tensor]]


def gap(pairs: Pairs) -> tuple[float, float]:
    """Largest absolute and largest relative difference over pairs of (ours, recorded)."""
    absolute, relative = 0.0, 0.0
    for ours, recorded in pairs:
        difference = (ours.detach().double() - recorded.double().reshape(ours.shape)).abs().max().item()
        absolute = max(absolute, difference)
        relative = max(relative, difference / max(recorded.abs().max().item(), 1e-30))
    return absolute, relative


def losses(ours: list[float], recorded: Tensor) -> tuple[float, float]:
    """The same for losses."""
    return gap([(torch.tensor(ours, dtype=torch.float64), recorded)])


def transformer(module, iteration: int, gradient_tag: str, steps: list[int], rate: float) -> dict[str, tuple]:
    """Dinomaly and INP-Former, whose cases have one form."""
    case = module.recorded()
    targets, outputs = case.run()
    loss = case.student.loss(targets, outputs, Progress(iteration, 10_000))
    loss.backward()
    gradients = {name: value.grad for name, value in case.student.named_parameters()}
    noise = getattr(module, "NOISE", "")
    wanted = {k: v for k, v in case.below(gradient_tag).items() if k != noise}
    double = module.recorded(torch.float64)
    stepped, _ = double.steps(steps, [rate] * 3)
    state = double.student.state_dict()
    after = {k: v for k, v in double.below("steps64.state_after_3.").items() if k != noise}
    name = "loss.total" if "loss.total" in case.tensors else "loss.global_cosine"
    return {
        "outputs": gap((o, case.tensors[f"output.decoder_group.{i}"]) for i, o in enumerate(outputs)),
        "loss": losses([loss.item()], case.tensors[name]),
        "gradients": gap((gradients[k], v) for k, v in wanted.items()),
        "three steps: loss": losses(stepped, double.tensors["steps64.loss"]),
        "three steps: parameters": gap((state[k], v) for k, v in after.items()),
    }


def reverse_distillation() -> dict[str, tuple]:
    """RD on the recorded small case."""
    case = rd.Detail()
    outputs = rd.run(case.student.train(), case.features)
    loss = case.student.loss(case.student.targets(case.features), outputs, rd.START)
    loss.backward()
    gradients = {name: value.grad for name, value in case.student.named_parameters()}
    double = rd.Detail(torch.float64)
    stepped = double.three_steps()
    state = double.student.state_dict()
    return {
        "outputs": gap((o, case.tensors[f"output.train.decoder.{i}"]) for i, o in enumerate(outputs)),
        "loss": losses([loss.item()], case.tensors["loss.train.cosine"]),
        "gradients": gap((gradients[k], v) for k, v in case.part("grad.train.").items()),
        "three steps: loss": losses(stepped, double.tensors["steps64.loss"]),
        "three steps: parameters": gap((state[k], v) for k, v in double.part("steps64.state_after_3.").items()),
    }


def vector_quantised() -> dict[str, tuple]:
    """HVQ on the recorded small case; of its parameters the change is recorded."""
    case = hvq.Detail()
    with torch.inference_mode():
        (output,) = case.student.eval()(case.features, case.classes)
    trained = hvq.Detail()
    loss = loss_of(trained.student.train(), trained.features, trained.classes)
    loss.backward()
    gradients = {name: value.grad for name, value in trained.student.named_parameters()}
    double = hvq.Detail(torch.float64)
    stepped, _, change = double.steps()
    return {
        "outputs": gap([(output, case.tensors["output.plain.feature_rec"])]),
        "loss": losses([loss.item()], trained.tensors["loss.train.total"]),
        "gradients": gap((gradients[k], v) for k, v in trained.part("grad.train.").items()),
        "three steps: loss": losses(stepped, double.tensors["steps64.loss"]),
        "three steps: parameters": gap((1e4 * change[k], v) for k, v in double.part("steps64.delta_after_3.").items()),
    }


def main() -> None:
    """Print the table."""
    found = {
        "Dinomaly": transformer(dinomaly, 5000, "grad.hard_mining_p0.9.", [1000] * 3, 2e-3),
        "INP-Former": transformer(inp_former, 0, "grad.total.", [0, 1, 2], 1e-3),
        "HVQ": vector_quantised(),
        "RD": reverse_distillation(),
    }
    print("| student | " + " | ".join(found["RD"]) + " |")
    print("|---|" + "---|" * len(found["RD"]))
    for name, row in found.items():
        print(f"| {name} | " + " | ".join(f"{a:.0e}, {r:.0e}" for a, r in row.values()) + " |")


if __name__ == "__main__":
    main()
