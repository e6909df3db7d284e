"""The recorded cases of Dinomaly and INP-Former: inputs, states, three optimiser steps, and how to compare."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from meds.core.backbone import Backbone, Layer, Preprocessing
from meds.core.layer_names import mean_of
from meds.core.scoring import image_scores, patch_distance, pixel_map, smooth
from meds.core.student import EvaluationDefaults, Progress

GOLDEN = Path(__file__).parent / "golden"
GROUPS = ([2, 3, 4, 5], [6, 7, 8, 9])


class FakeBackbone(Backbone):
    """Only what `layers_needed` looks at."""

    def __init__(self, layers: list[Layer], family: str = "vit", size: int = 392) -> None:
        self.name, self.family, self.layers = "fake", family, tuple(layers)
        self.preprocessing = Preprocessing(size, size)

    def to(self, device: torch.device) -> None:
        raise NotImplementedError

    def forward(self, images, layers):
        raise NotImplementedError


def fake_vit(blocks: int = 12, width: int = 32, side: int = 8, prefix: int = 5) -> FakeBackbone:
    layers = [Layer(f"block{i}", width, side, side, signed=True) for i in range(blocks)]
    if prefix:
        layers += [Layer(f"prefix{i}", width, 1, prefix, signed=True) for i in range(blocks)]
    return FakeBackbone(layers)


class Recorded:
    """One golden file: its tensors, the student with the recorded state, and the features as meds gives them."""

    def __init__(self, file: str, student_class, options, dtype: torch.dtype = torch.float32) -> None:
        with safe_open(GOLDEN / file, "pt") as opened:
            self.tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            self.metadata = dict(opened.metadata())
        self.order = json.loads(self.metadata["parameter_order"])
        side, width = int(self.metadata["side"]), int(self.metadata["dim"])
        prefix = int(self.metadata["prefix_tokens"])
        tokens = [[self.tensors[f"input.tokens.{i}"].to(dtype) for i in group] for group in GROUPS]
        means = [torch.stack(group).mean(0) for group in tokens]
        self.features = [m[:, prefix:].transpose(1, 2).reshape(len(m), width, side, side) for m in means]
        names = [mean_of([f"block{i}" for i in group]) for group in GROUPS]
        layers = [Layer(name, width, side, side, signed=True) for name in names]
        if student_class.name == "dinomaly":
            self.features += [m[:, :prefix].transpose(1, 2)[:, :, None] for m in means]
            layers += [Layer(f"prefix{i}", width, 1, prefix, signed=True) for i in range(2)]
        self.student = student_class(options, layers, ["a"]).to(dtype)
        self.student.load_state_dict(self.below("state."))
        self.classes = torch.zeros(len(means[0]), dtype=torch.int64)

    def below(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

    def run(self) -> tuple[list[Tensor], list[Tensor]]:
        return self.student.targets(self.features), self.student(self.features, self.classes)

    def loss(self, iteration: int) -> Tensor:
        targets, outputs = self.run()
        return self.student.loss(targets, outputs, Progress(iteration, 1000))

    def parameters(self) -> list[nn.Parameter]:
        found = dict(self.student.named_parameters())
        return [found[name] for name in self.order]

    def steps(self, iterations: list[int], rates: list[float]) -> tuple[list[float], list[float]]:
        """Losses and gradient norms of optimiser steps with the student's own optimiser and clipping."""
        defaults = self.student.training_defaults()
        optimiser = defaults.optimiser(self.student.parameters())
        losses, norms = [], []
        for iteration, rate in zip(iterations, rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate
            optimiser.zero_grad()
            loss = self.loss(iteration)
            loss.backward()
            norms.append(float(nn.utils.clip_grad_norm_(self.student.parameters(), defaults.clip_norm)))
            optimiser.step()
            losses.append(loss.item())
        return losses, norms


def close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    """Equal up to a share of the largest wanted value."""
    assert found.shape == wanted.shape
    gap = (found.double() - wanted.double()).abs().max().item()
    assert gap <= tolerance * wanted.abs().max().item(), f"{gap:.3e} of {wanted.abs().max().item():.3e}"


def check_groups(case: Recorded, tolerance: float) -> None:
    """Teacher groups, reconstructions (to a share `tolerance`) and their distances are the recorded ones."""
    with torch.inference_mode():
        targets, outputs = case.run()
        for i, (target, output) in enumerate(zip(targets, outputs, strict=True)):
            close(target, case.tensors[f"output.encoder_group.{i}"], 1e-6)
            close(output, case.tensors[f"output.decoder_group.{i}"], tolerance)
            close(patch_distance(target, output), case.tensors[f"output.distance.{i}"], 1e-5)


def check_parts(case: Recorded, parts: dict[str, nn.Module], tolerance: float) -> None:
    """What the bottleneck is given and what the named parts of the network make is recorded as `output.<name>`."""
    seen: dict[str, Tensor] = {}
    for name, module in parts.items():
        module.register_forward_hook(lambda _, given, out, name=name: seen.update({name: out, f"{name}.in": given[0]}))
    with torch.inference_mode():
        case.run()
    close(seen["bottleneck.in"], case.tensors["output.fused_tokens"], 1e-6)
    for name in parts:
        close(seen[name], case.tensors[f"output.{name}"], tolerance)


def check_maps(case: Recorded, size: str | int) -> None:
    """Maps, smoothed maps and image scores at the input's size, 96 or the published 256."""
    with torch.inference_mode():
        targets, outputs = case.run()
        evaluation = case.student.evaluation_defaults()
        side = evaluation.resize if size == "input" else size
        evaluation = EvaluationDefaults(**{**vars(evaluation), "map_size": side})
        maps = pixel_map([patch_distance(t, o) for t, o in zip(targets, outputs, strict=True)], evaluation)
        smoothed = smooth(maps, evaluation)
    step, suffix = (4, "_every4th") if size == 256 else (1, "")
    close(maps[:, None, ::step, ::step], case.tensors[f"output.map_{size}{suffix}"], 1e-5)
    step, suffix = (2, "_every2nd") if size == "input" else (step, suffix)
    close(smoothed[:, None, ::step, ::step], case.tensors[f"output.map_{size}_smoothed{suffix}"], 1e-5)
    close(image_scores(smoothed, evaluation), case.tensors[f"output.score.{size}.top1pct"], 1e-5)


def check_steps64(case: Recorded, iterations: list[int], rate: float, half_noise: str = "") -> None:
    """Three optimiser steps in float64; of the parameter `half_noise` the second half only."""
    losses, _ = case.steps(iterations, [rate] * 3)
    assert losses == pytest.approx(case.tensors["steps64.loss"].tolist(), rel=1e-9)
    state = case.student.state_dict()
    for name, wanted in case.below("steps64.state_after_3.").items():
        start = len(wanted) // 2 if name == half_noise else 0
        close(state[name][start:], wanted[start:], 1e-6)


def check_steps32(case: Recorded, iterations: list[int], rate: float, noise: str = "") -> None:
    """Three optimiser steps in float32, within ten times what float32 itself loses; without the parameter `noise`.

    The optimiser divides by the gradient's size, so that entries whose gradient is near 0 feel the rounding of each
    kind of processor: a hundredth of the distance of three steps is allowed to all. The float64 test is the strict one.
    """
    losses, norms = case.steps(iterations, [rate] * 3)
    assert losses == pytest.approx(case.tensors["steps.loss"].tolist(), rel=1e-4)
    assert norms == pytest.approx(case.tensors["steps.grad_norm"].tolist(), rel=1e-3)
    allowed = dict(zip(case.order, case.tensors["steps.fp32_error_each"].tolist(), strict=True))
    state = case.student.state_dict()
    for name, wanted in case.below("steps.state_after_3.").items():
        if name != noise:
            assert (state[name] - wanted).abs().max() <= max(10 * allowed[name], 0.01 * 3 * rate)


def check_first_iterations(case: Recorded) -> None:
    """The first three iterations of the published loop, with its learning rates."""
    rates = [case.student.training_defaults().learning_rate(i, 1000) for i in range(3)]
    assert rates == pytest.approx(case.tensors["warm.lr"].tolist())
    before = {name: p.detach().clone() for name, p in case.student.named_parameters()}
    losses, _ = case.steps([0, 1, 2], rates)
    assert losses == pytest.approx(case.tensors["warm.loss"].tolist(), rel=1e-6)
    after = dict(case.student.named_parameters())
    for name, wanted in case.below("warm.delta_after_3.").items():
        close(1e4 * (after[name] - before[name]).detach(), wanted, 1e-3)
