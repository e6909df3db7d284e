"""The training loop draws its own random numbers for every stage and student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from stage_cases import make_context
from torch import Tensor

from meds.core.checkpoint import Checkpoints
from meds.core.epochs import AllImages, TrainingLength
from meds.core.training import train


def drawn(folder: Path, name: str) -> Tensor:
    """What a student would drop out at the first step of a training of that name."""
    context = make_context([torch.randn(4, 6, 2, 2)], ["a"] * 4, folder)
    student, seen = context.new_student("x"), []

    def objective(student: Any, *_: Any) -> Tensor:
        seen.append(torch.rand(8))
        return torch.stack([p.sum() for p in student.parameters()]).sum()

    plan, length = AllImages(4, 0), TrainingLength(1, 4, False)
    train(context, student, context.data.train, objective, plan, length, Checkpoints(folder, name), "training")
    return seen[0]


def test_trainings_have_random_numbers_of_their_own(tmp_path: Path) -> None:
    distilled, again, tuned, other_class = (
        drawn(tmp_path / str(place), name)
        for place, name in enumerate(["distill-a", "distill-a", "select-finetune-a", "distill-b"])
    )
    assert torch.equal(distilled, again)
    assert not torch.equal(distilled, tuned)
    assert not torch.equal(distilled, other_class)
