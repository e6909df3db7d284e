"""Running statistics of batch normalisation over chosen images: a plain reference, and what a run stores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from stage_cases import LinearStudent, make_context
from torch import Tensor, nn

from meds.core.student import Progress
from meds.stages.batch_statistics import estimate_batch_statistics, has_batch_statistics
from meds.stages.options import SelectFinetuneOptions
from meds.stages.scoring_pass import training_scores
from meds.stages.select_finetune import SelfSelection


class NormedStudent(LinearStudent):
    """A linear student behind a batch normalisation, with a dropout that must stay off."""

    def __init__(self, options: Any, layers: Sequence[Any], class_names: Sequence[str]) -> None:
        super().__init__(options, layers, class_names)
        self.norm = nn.BatchNorm2d(layers[0].channels, momentum=0.3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, features: Sequence[Tensor], classes: Tensor) -> list[Tensor]:
        return super().forward([self.dropout(self.norm(features[0]))], classes)


def context_of(folder: Path, student: type = NormedStudent, images: int = 10) -> Any:
    maps = torch.randn(images, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 4)[:, None, None]
    return make_context([maps], ["a"] * images, folder, student_class=student), maps


@pytest.mark.parametrize(("images", "used"), [(10, 8), (3, 3), (4, 4)])
def test_statistics_are_means_over_whole_batches(tmp_path: Path, images: int, used: int) -> None:
    context, maps = context_of(tmp_path, images=images)
    student = context.new_student("a")
    before = {name: value.clone() for name, value in student.named_parameters()}
    student.norm.running_mean.fill_(99.0)
    estimate_batch_statistics(context, student, context.data.train, 4)
    batches = maps[:used].split(4)
    mean = torch.stack([batch.mean(dim=(0, 2, 3)) for batch in batches]).mean(dim=0)
    variance = torch.stack([batch.transpose(0, 1).flatten(1).var(dim=1) for batch in batches]).mean(dim=0)
    torch.testing.assert_close(student.norm.running_mean, mean)
    torch.testing.assert_close(student.norm.running_var, variance)
    assert student.norm.momentum == 0.3
    assert not any(module.training for module in student.modules())
    assert all(torch.equal(value, before[name]) for name, value in student.named_parameters())


def test_a_student_without_batch_normalisation_is_left_alone(tmp_path: Path) -> None:
    context, _ = context_of(tmp_path, LinearStudent)
    student = context.new_student("a")
    assert not has_batch_statistics(student)
    state = {name: value.clone() for name, value in student.state_dict().items()}
    estimate_batch_statistics(context, student, context.data.train, 4)
    assert all(torch.equal(value, state[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize("statistics", ["all", "selected"])
def test_a_scoring_pass_settles_on_the_images_that_are_not_held_out_first(tmp_path: Path, statistics: Any) -> None:
    context, maps = context_of(tmp_path, images=40)
    options = SelectFinetuneOptions(holdout=0.5, batch_size=20, batch_statistics=statistics)
    plan = SelfSelection(options, context, context.partitions[0], range(40), torch.rand(40), "cosine")
    student = context.new_student("a")
    student.norm.running_mean.fill_(99.0)
    plan.begin(1, Progress(4, 8), student)
    trainable = maps[plan.trainable]
    assert len(trainable) == 20
    settled = trainable.mean(dim=(0, 2, 3)) if statistics == "all" else torch.full((3,), 99.0)
    torch.testing.assert_close(student.norm.running_mean, settled)
    assert torch.equal(plan.now, training_scores(context, student, plan.samples, "cosine", options))


@pytest.mark.parametrize(("statistics", "near"), [("all", True), ("selected", False)])
def test_a_kind_of_images_that_is_not_selected_is_scored_fairly(
    tiny_spec: dict[str, Any], project: Any, statistics: str, near: bool
) -> None:
    from meds.core.finished_run import FinishedRun

    tiny_spec["dataset"] |= {"classes": ["weave"], "train": 16}
    tiny_spec["stages"][2] |= {"batch_statistics": statistics, "iterations": 4}
    project.run_well(spec=tiny_spec)
    run = FinishedRun(project.runs / "tiny")
    context = run.context("x")
    student = context.new_student("x")
    student.load_state_dict(run.artifact("select-finetune").tensors("student"))
    stored = {name: value.clone() for name, value in student.state_dict().items() if "running_mean" in name}
    samples = list(context.data.train)
    estimate_batch_statistics(context, student, samples, 4)
    gaps = [(student.state_dict()[name] - value).abs().max().item() for name, value in stored.items()]
    # The order of the images is another one here, so "near" is not "equal".
    assert (max(gaps) < 0.35) == near, max(gaps)
