"""What the training images are ranked by: the student, the memory, or both."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from meds.core.finished_run import FinishedRun
from meds.core.selection import robust_maximum
from meds.reports.ranking import read_ranking
from meds.reports.run_figures import class_figures
from meds.reports.training_scores import training_scores
from meds.stages.ranking import ranked_by, ranking_scores

OWN = torch.tensor([0.4, 0.1, 0.9, -1e-8])
MAPS = torch.tensor([[[0.1, 0.2]], [[0.9, 0.3]], [[0.4, 0.4]], [[0.5, 0.5]]])
MEMORY = robust_maximum(MAPS)


def test_both_is_the_geometric_mean_by_hand() -> None:
    found = ranking_scores("both", OWN, MEMORY).tolist()
    wanted = [statistics.geometric_mean(pair) for pair in ((0.4, 0.2), (0.1, 0.9), (0.9, 0.4))]
    assert found == pytest.approx([*wanted, 0.0])


def test_each_alone() -> None:
    assert ranking_scores("memory", OWN, MEMORY).equal(robust_maximum(MAPS))
    assert ranking_scores("student", OWN, MEMORY).equal(OWN)
    assert ranking_scores("student", OWN, None).equal(OWN)


def test_the_scale_of_either_does_not_matter() -> None:
    order = ranking_scores("both", OWN, MEMORY).argsort()
    assert order.equal(ranking_scores("both", 1000 * OWN, MEMORY).argsort())


@pytest.mark.parametrize(
    ("wanted", "source", "has_memory", "by"),
    [
        ("both", "student", True, "both"),
        ("both", "student", False, "student"),
        ("student", "student", True, "student"),
        ("memory", "distilled-student", True, "memory"),
        ("both", "memory-scores", True, "memory"),
        ("student", "memory-scores", True, "memory"),
    ],
)
def test_what_ranks(wanted: Any, source: str, has_memory: bool, by: str) -> None:
    assert ranked_by(wanted, source, has_memory) == by


@pytest.mark.parametrize("by", ["student", "memory", "both"])
def test_a_run_ranks_as_its_spec_says(project: Any, tiny_spec: dict[str, Any], by: str) -> None:
    project.run_well("--set", f"stages.evaluate.ranking={by}", spec=tiny_spec)
    own = load_file(Path(project.json("evaluate/artifact.json")["path"]) / "scores.safetensors")["scorer"]
    known = robust_maximum(load_file(Path(project.json("memory/artifact.json")["path"]) / "scores.safetensors")["maps"])
    wanted = {"student": own, "memory": known, "both": (own * known).sqrt()}[by].tolist()
    train = [row for row in project.rows("data.csv") if row["split"] == "train"]
    found = {row["path"]: float(row["score"]) for row in project.rows("ranking.csv")}
    assert [found[row["path"]] for row in train] == pytest.approx(wanted, rel=1e-6)
    assert project.json("metrics.json")["ranking"]["by"] == by


@pytest.mark.parametrize("by", ["student", "both"])
def test_all_scores_of_training_images_are_the_mean_of_as_many_patches(
    project: Any, tiny_spec: dict[str, Any], by: str
) -> None:
    tiny_spec["stages"][2] |= {"robust_maximum": 50, "rounding": "floor"}
    project.run_well("--set", f"stages.evaluate.ranking={by}", spec=tiny_spec)
    folders = {stage: Path(project.json(f"{stage}/artifact.json")["path"]) for stage in ("memory", "evaluate")}
    own = load_file(folders["evaluate"] / "maps.safetensors")["train"].float()
    scores = load_file(folders["evaluate"] / "scores.safetensors")
    assert scores["scorer"].tolist() == pytest.approx(robust_maximum(own, 50, "floor").tolist(), rel=1e-2)
    known = robust_maximum(load_file(folders["memory"] / "scores.safetensors")["maps"], 50, "floor")
    wanted = scores["scorer"] if by == "student" else (scores["scorer"] * known).sqrt()
    assert scores["ranking"].tolist() == pytest.approx(wanted.tolist(), rel=1e-6)
    run = FinishedRun(project.file(""))
    assert [point.title for point in training_scores(run)] == ["Memory", "Distilled student", "After training"]
    assert training_scores(run)[0].scores.tolist() == pytest.approx(known.tolist(), rel=1e-6)
    figures = class_figures(run, "x", "weave", training_scores(run), read_ranking(run).classes[1])
    assert figures.wide.caption == "Scores of the training images: the mean of the highest 50 % of patch scores."


def test_the_recipe_of_the_paper_ranks_by_the_student(project: Any, tiny_spec: dict[str, Any]) -> None:
    project.run_well("--set", "recipe=paper", "--set", "stages.memory.banks=5", spec=tiny_spec)
    assert project.json("metrics.json")["ranking"]["by"] == "student"
