"""Every student that ships with meds: a training that is interrupted twice ends in the same bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from stage_cases import make_context
from torch import Tensor

from meds.core.checkpoint import Checkpoints
from meds.core.registry import load_registry
from meds.core.training import AllImages, TrainingLength, train
from meds.stages.fit import own_objective

SMALL = {
    "rd": {"blocks": [1, 1, 1], "bottleneck_blocks": 1, "layers": ["layer0", "layer1", "layer2"]},
    "dinomaly": {"depth": 2, "heads": 2, "layers": [["layer0"], ["layer1"]]},
    "inp-former": {"depth": 2, "heads": 2, "layers": [["layer0"], ["layer1"]]},
    "hvq": {"width": 16, "heads": 2, "feedforward": 24, "codes": 12, "levels": 2, "layers": ["layer0"]},
}
CASES = [*((name, {}) for name in SMALL), ("hvq", {"codebook_start": "published"})]
LENGTH = TrainingLength(8, 3, False)


def context_of(name: str, folder: Path, options: dict[str, Any]) -> Any:
    registration = load_registry().get("student", name)
    generator = torch.Generator().manual_seed(1)
    grids = (16, 8, 4) if name == "rd" else (4, 4, 4)
    maps = [torch.randn(4, 8, grid, grid, generator=generator) for grid in grids]
    context = make_context(maps, ["a", "b", "b", "a"], folder, student_class=registration.load())
    context.backbone.family = "cnn" if name in ("rd", "hvq") else "vit"
    return dataclasses.replace(context, student_options=registration.plugin.options(**SMALL[name], **options))


def trained(name: str, options: dict[str, Any], folder: Path, stop_at: int | None = None) -> dict[str, Tensor]:
    context = context_of(name, folder, options)
    student, objective = context.new_student("all"), own_objective(context)

    def stopping(student: Any, features: Any, chosen: Any, classes: Any, progress: Any) -> Tensor:
        if progress.iteration == stop_at:
            raise KeyboardInterrupt
        return objective(student, features, chosen, classes, progress)

    checkpoints = Checkpoints(folder / "work")
    train(context, student, context.data.train, stopping, AllImages(4, 0), LENGTH, checkpoints, "fit")
    return student.state_dict()


def test_every_student_is_here() -> None:
    assert set(SMALL) == set(load_registry().names("student"))


@pytest.mark.parametrize(("name", "options"), CASES)
def test_an_interrupted_training_ends_in_the_same_bits(
    name: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDS_CHECKPOINT_SECONDS", "0")
    straight = trained(name, options, tmp_path / "straight")
    for stop_at in (1, 4):
        with pytest.raises(KeyboardInterrupt):
            trained(name, options, tmp_path / "halting", stop_at)
    torch.rand(7)
    resumed = trained(name, options, tmp_path / "halting")
    assert all(torch.equal(value, resumed[key]) for key, value in straight.items())
