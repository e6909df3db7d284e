"""Distillation: its loss by hand, and a student that learns the memory's maps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stage_cases import make_context, stored
from torch import Tensor

from meds.core.epochs import shuffled
from meds.core.partitions import partitions_of
from meds.core.runtime import Runtime
from meds.core.scoring import score_map
from meds.core.seeds import derive_seed
from meds.core.stage import StageContext
from meds.stages.distill import Distill
from meds.stages.options import DistillOptions

MEMORY = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
STUDENT = torch.tensor([[[1.0, 2.0], [0.0, 8.0]], [[0.0, -2.0], [0.0, 0.0]]])


def distill(**options: Any) -> Distill:
    return Distill(DistillOptions(**options))


@pytest.mark.parametrize(
    ("loss", "value"),
    [("l2-norm", (5 + 2) / 2), ("mse", (9 + 16 + 4) / 8), ("l1", (3 + 4 + 2) / 8)],
)
@pytest.mark.parametrize("weight", [1.0, 10.0])
def test_loss_by_hand(loss: str, value: float, weight: float) -> None:
    assert distill(loss=loss, loss_weight=weight).loss(MEMORY, STUDENT).item() == pytest.approx(weight * value)


def test_the_slope_is_finite_where_the_student_is_right() -> None:
    maps = MEMORY.clone().requires_grad_()
    distill().loss(MEMORY, maps).backward()
    assert torch.equal(maps.grad, torch.zeros_like(maps))


def test_memory_maps_come_to_the_grid_of_the_student() -> None:
    row = torch.tensor([1.0, 1.25, 1.75, 2.0])
    wanted = torch.stack([row, row + 0.5, row + 1.5, row + 2])[None]
    assert distill(loss="l1").loss(MEMORY[:1], wanted).item() == pytest.approx(0, abs=1e-6)
    assert distill(loss="l1").loss(MEMORY[:1], wanted + 1).item() == pytest.approx(1)
    coarse = torch.full((1, 1, 1), 2.5)
    assert distill(loss="l2-norm").loss(MEMORY[:1], coarse).item() == pytest.approx(0, abs=1e-6)


class Losses:
    """A reporter that keeps the losses of a training."""

    def __init__(self) -> None:
        self.values: list[float] = []

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Any]:
        yield self

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.values += [float(note.removeprefix("loss "))] if note else []

    def say(self, text: str) -> None:
        raise AssertionError(text)


def made(folder: Path, distance: str = "cosine", classes: str = "aaaaaabbbbbb") -> tuple[StageContext, Tensor]:
    """A context of twelve images with two layers, and the memory's maps."""
    generator = torch.Generator().manual_seed(0)
    layers = [torch.randn(12, 4, 6, 6, generator=generator), torch.randn(12, 8, 3, 3, generator=generator)]
    maps = 0.2 + 0.4 * torch.rand(12, 6, 6, generator=generator)
    memory = stored(maps=maps)
    memory.info["distance"] = distance
    context = make_context(layers, list(classes), folder, {"memory-scores": memory})
    context.reporter = Losses()
    return context, maps


def whole_loss(context: StageContext, maps: Tensor, weights: dict[str, Tensor] | None = None) -> float:
    student = context.new_student("all")
    if weights is not None:
        student.load_state_dict(weights)
    features = context.read_features(context.data.train)
    with torch.inference_mode():
        outputs = student(features, context.class_tensor(context.data.train))
        return distill().loss(maps, score_map(student.targets(features), outputs)).item()


def test_a_student_learns_the_maps(tmp_path: Path) -> None:
    context, maps = made(tmp_path)
    before = whole_loss(context, maps)
    distill(iterations=120).run(context)
    after = whole_loss(context, maps, load_file(tmp_path / "output" / "student.safetensors"))
    assert after < 0.5 * before
    assert len(context.reporter.values) == 120


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_the_first_step_sees_its_batch_with_the_distance_of_the_memory(tmp_path: Path, distance: Any) -> None:
    context, maps = made(tmp_path, distance)
    distill(iterations=1, batch_size=5).run(context)
    batch = shuffled(range(12), derive_seed(0, "distill", "all"), 0)[:5]
    samples = [context.data.train[i] for i in batch]
    features = context.read_features(samples)
    student = context.new_student("all")
    scores = score_map(student.targets(features), student(features, context.class_tensor(samples)), distance)
    wanted = (maps[batch] - scores).flatten(1).norm(dim=1).mean().item()
    assert context.reporter.values == pytest.approx([wanted], abs=1e-4)
    assert context.output.info["distance"] == distance


def test_separate_students_learn_from_their_own_class_alone(tmp_path: Path) -> None:
    students = []
    for change in (0.0, 0.3):
        context, maps = made(tmp_path, classes="abababababab")
        maps[1::2] += change
        context.partitions = partitions_of("separate", context.data.class_names)
        distill(iterations=6).run(context)
        assert sorted(path.name for path in (tmp_path / "output").iterdir()) == [
            "student.000.safetensors",
            "student.001.safetensors",
        ]
        students.append([load_file(tmp_path / "output" / f"student.00{i}.safetensors") for i in range(2)])
    same, other = ([torch.equal(students[0][i][k], students[1][i][k]) for k in students[0][i]] for i in range(2))
    assert all(same)
    assert not any(other)


def test_reading_a_batch_ahead_as_on_an_accelerator_changes_no_bit(tmp_path: Path) -> None:
    accelerator = SimpleNamespace(device=torch.device("cuda"))
    states = []
    for ahead in (False, True):
        context, _ = made(tmp_path)
        if ahead:
            context.runtime.in_advance = partial(Runtime.in_advance, accelerator)
        distill(iterations=7, batch_size=5).run(context)
        states.append(load_file(tmp_path / "output" / "student.safetensors"))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_partitions_share_what_a_device_holds(tmp_path: Path) -> None:
    context, _ = made(tmp_path)
    assert context.within(context.partitions[0]).device_features is context.device_features
