"""Which training images set a threshold, and how much each counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from meds.core.contamination_estimate import estimate_contamination
from meds.core.data import Sample
from meds.core.dataset import Record
from meds.core.selection import robust_maximum
from meds.core.thresholds import setting_the_threshold
from meds.stages.thresholds import likely_normal
from meds.stages.training_bias import as_if_not_trained_on

RANDOM = np.random.default_rng(0)
SCORES = np.concatenate([RANDOM.lognormal(0, 0.2, 180), RANDOM.lognormal(1.5, 0.2, 20), RANDOM.lognormal(0, 0.2, 10)])
SELECTED = SCORES < 1.2


def samples() -> list[Sample]:
    """200 images of one class, the last 20 of them defects, and ten of another class, too few to tell."""
    names = ["many"] * 200 + ["few"] * 10
    return [
        Sample(Record(f"{i}.png", name, "train"), str(i), int(name == "few"), confirmed=i == 199)
        for i, name in enumerate(names)
    ]


def test_probabilities_selection_and_what_people_said() -> None:
    found = likely_normal(samples(), SELECTED, SCORES)
    estimate = estimate_contamination(SCORES, [0] * 200 + [1] * 10)
    assert np.array_equal(found[:199], 1 - estimate.probabilities[:199])
    assert found[180:199].max() < 0.1
    assert found[:180].mean() > 0.97
    assert found[199] == 1, "a person has said that it is normal"
    assert np.array_equal(found[200:], SELECTED[200:])


def test_without_suspicion_the_selection_decides() -> None:
    found = likely_normal([replace(sample, confirmed=False) for sample in samples()], SELECTED, None)
    assert np.array_equal(found, SELECTED.astype(float))


def test_normal_images_outside_the_selection_count() -> None:
    """A selection leaves normal images out, and a threshold from the others is exceeded by all of those."""
    normal = SCORES[:180]
    assert (normal[SELECTED[:180]].max() < normal).mean() > 0.1
    weights = likely_normal(samples(), SELECTED, SCORES)[:180]
    assert (normal[weights > 0.5].max() < normal).mean() < 0.02


@pytest.mark.parametrize(
    ("unseen", "normal", "chosen"),
    [
        ([1, 1, 0, 0], [1, 0.2, 1, 0], [0, 1]),  # held out, whatever was selected
        ([1, 1, 0, 0], [1, 0, 1, 1], [0]),  # surely a defect
        ([0, 0, 0, 0], [1, 1, 1, 1], [0, 2]),  # nothing held out: the selected ones
        ([1, 1, 0, 0], [0, 0, 1, 1], [0, 2]),
    ],
)
def test_who_sets_the_threshold(unseen: Any, normal: Any, chosen: list[int]) -> None:
    everyone, selected = np.ones(4, dtype=bool), np.array([1, 0, 1, 0], dtype=bool)
    found = setting_the_threshold(everyone, selected, np.array(unseen, dtype=bool), np.array(normal, dtype=float))
    assert np.flatnonzero(found).tolist() == chosen


def trained(project: Any, not_held_out: Any) -> Any:
    """Which training images a run's student was trained on at the end, bool [n]."""
    selected = {row["path"]: row["selected"] == "1" for row in project.rows("ranking.csv")}
    train = [row["path"] for row in project.rows("data.csv") if row["split"] == "train"]
    return not_held_out & np.array([selected[path] for path in train])


@pytest.mark.parametrize("stage", ["select-finetune", "fit", "memory"])
def test_a_run_keeps_how_likely_its_images_are_to_be_normal(
    project: Any, tiny_spec: dict[str, Any], stage: str
) -> None:
    tiny_spec["dataset"] |= {"classes": ["weave"], "train": 32}
    training = {"type": stage, "iterations": 4, "batch_size": 4, "holdout": 0.5}
    stages = {"select-finetune": [*tiny_spec["stages"][:2], training], "fit": [training]}
    before = stages.get(stage, tiny_spec["stages"][:1])
    project.run_well(spec=tiny_spec | {"stages": [*before, tiny_spec["stages"][-1]]})
    stored = load_file(Path(project.json("evaluate/artifact.json")["path"]) / "scores.safetensors")
    if stage == "fit":
        assert stored["normal"].tolist() == [1.0] * len(stored["normal"])
    else:
        maps = load_file(Path(project.json("memory/artifact.json")["path"]) / "scores.safetensors")["maps"]
        held_out, known = stored["unseen"].numpy() == 1, robust_maximum(maps)
        classes = np.zeros(len(held_out), dtype=np.int64)
        own = as_if_not_trained_on(stored["scorer"], known, trained(project, ~held_out), held_out, classes)
        estimate = estimate_contamination((own * known).sqrt().numpy(), classes)
        assert stored["normal"].tolist() == pytest.approx((1 - estimate.probabilities).tolist(), abs=1e-6)
    assert project.json("metrics.json")["calibration"]["weave"]["held_out"]
