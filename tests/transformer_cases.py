"""The recorded cases of Dinomaly and INP-Former: inputs, states, three optimiser steps, and how to compare."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from meds.core.backbone import Backbone, Layer, Preprocessing
from meds.core.layer_names import mean_of
from meds.core.student import Progress

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
