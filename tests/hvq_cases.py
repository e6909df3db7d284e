"""What the tests of HVQ-Trans share: recorded numbers, small students and features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from meds.core.backbone import Layer
from meds.core.student import Progress
from meds.plugins.students.hvq import HVQOptions
from meds.plugins.students.hvq_network import HierarchicalVectorQuantisedTransformer

HVQ = HierarchicalVectorQuantisedTransformer
GOLDEN = Path(__file__).parent / "golden"
START = Progress(0, 1)
SMALL = {"width": 16, "heads": 2, "feedforward": 24, "codes": 12, "levels": 2}


def read(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(GOLDEN / name, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata())  # noqa: SIM118


def close(actual: Tensor, expected: Tensor, relative: float = 1e-4, absolute: float = 1e-5) -> None:
    torch.testing.assert_close(actual.to(expected.dtype), expected, rtol=relative, atol=absolute)


def near_largest(actual: Tensor, expected: Tensor, fraction: float) -> None:
    limit = fraction * max(float(expected.abs().max()), 1e-6)
    assert float((actual.double() - expected.double()).abs().max()) <= limit


def joined_map(channels: int, grid: int) -> list[Layer]:
    return [Layer("joined", channels, grid, grid, signed=True)]


def small(classes: int = 2, channels: int = 10, grid: int = 4, **options: Any) -> HVQ:
    torch.manual_seed(0)
    names = [f"class{index}" for index in range(classes)]
    return HVQ(HVQOptions(**{**SMALL, **options}), joined_map(channels, grid), names)


def random_features(batch: int = 4, channels: int = 10, grid: int = 4) -> list[Tensor]:
    return [torch.randn(batch, channels, grid, grid, generator=torch.Generator().manual_seed(1))]


def loss_of(student: HVQ, features: list[Tensor], classes: Tensor) -> Tensor:
    outputs = student(features, classes)
    return student.loss(student.targets(features), outputs, START)


def maps_of(student: HVQ, features: list[Tensor], classes: Tensor) -> Tensor:
    with torch.inference_mode():
        return student.anomaly_maps(student.targets(features), student(features, classes), "cosine")[0]
