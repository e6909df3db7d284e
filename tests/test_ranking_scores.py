"""What the training images are ranked by: the student, the memory, or both."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from meds.core.selection import robust_maximum
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


def test_the_recipe_of_the_paper_ranks_by_the_student(project: Any, tiny_spec: dict[str, Any]) -> None:
    project.run_well("--set", "recipe=paper", "--set", "stages.memory.banks=5", spec=tiny_spec)
    assert project.json("metrics.json")["ranking"]["by"] == "student"
