"""Runs of other shapes: every ablation as a list of stages, separate classes, and data without labels or masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

MEMORY = {"type": "memory"}
DISTILL = {"type": "distill", "iterations": 3, "batch_size": 4}
FIT = {"type": "fit", "iterations": 3, "batch_size": 4}
SELECT = {"type": "select-finetune", "iterations": 4, "batch_size": 4}
EVALUATE = {"type": "evaluate", "map_size": 64}

ABLATIONS = {
    "plain student": [FIT],
    "memory only": [MEMORY],
    "distilled only": [MEMORY, DISTILL],
    "random init, memory criterion": [MEMORY, {**SELECT, "init": "random", "criterion": "memory"}],
    "random init, distilled criterion": [MEMORY, DISTILL, {**SELECT, "init": "random"}],
    "distilled init, memory criterion": [MEMORY, DISTILL, {**SELECT, "criterion": "memory"}],
    "full": [MEMORY, DISTILL, SELECT],
}


def images(folder: Path, count: int, size: int = 48, start: int = 0) -> Path:
    """Random images, each with another content."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        pixels = np.random.default_rng(number).integers(0, 255, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return folder


def of_folder(spec: dict[str, Any], path: Path, **options: str) -> dict[str, Any]:
    """The spec on a folder of images, without noise."""
    return {**spec, "dataset": {"type": "folder", "path": str(path), **options}, "noise": None}


@pytest.mark.parametrize("stages", ABLATIONS.values(), ids=ABLATIONS)
def test_every_ablation_is_a_list_of_stages(project: Any, tiny_spec: dict[str, Any], stages: list[Any]) -> None:
    tiny_spec["dataset"] |= {"train": 6, "test_normal": 2, "test_defective": 4}
    project.run_well(spec={**tiny_spec, "stages": [*stages, EVALUATE]})
    assert project.computed() == [stage["type"] for stage in [*stages, EVALUATE]]
    metrics = project.json("metrics.json")
    assert all(0 <= value <= 1 for value in metrics["mean"].values())
    assert len(project.rows("ranking.csv")) == 2 * (6 + 2)
    assert project.file("selection.csv").is_file() == (stages[-1]["type"] == "select-finetune")


def test_ablations_share_what_they_have_in_common(project: Any, tiny_spec: dict[str, Any]) -> None:
    for name in ("memory only", "distilled only", "random init, distilled criterion", "full"):
        project.run_well("--set", "name=x", spec={**tiny_spec, "stages": [*ABLATIONS[name], EVALUATE]})
    computed = project.computed("x")
    assert (computed.count("memory"), computed.count("distill")) == (1, 1)
    assert (computed.count("select-finetune"), computed.count("evaluate")) == (2, 4)


def test_separate_classes_have_a_student_each(project: Any, tiny_spec: dict[str, Any]) -> None:
    project.run_well("--set", "classes=separate", spec=tiny_spec)
    for stage in ("distill", "select-finetune"):
        folder = Path(project.json(f"{stage}/artifact.json")["path"])
        names = sorted(path.name for path in folder.glob("student*"))
        assert names == ["student.000.safetensors", "student.001.safetensors"]
        first, second = ((folder / name).read_bytes() for name in names)
        assert first != second
    rows = project.rows("selection.csv")
    assert {(row["class"], row["total"]) for row in rows} == {("discs", "10"), ("weave", "10")}
    assert set(project.json("metrics.json")["classes"]) == {"discs", "weave"}
    selected = sum(int(rows_of[-1]["selected"]) for rows_of in _by_class(rows))
    assert sum(row["selected"] == "1" for row in project.rows("ranking.csv")) == selected


def _by_class(rows: list[dict[str, str]]) -> list[list[dict[str, str]]]:
    return [[row for row in rows if row["class"] == name] for name in sorted({row["class"] for row in rows})]


SMALL_STUDENTS = {
    "rd": {"blocks": [1, 1, 1], "bottleneck_blocks": 1},
    "dinomaly": {"depth": 2, "width": 32},
    "inp-former": {"depth": 2, "width": 32},
    "hvq": {"width": 32, "heads": 2, "feedforward": 32, "codes": 16},
}


@pytest.mark.parametrize("classes", ["unified", "separate"])
@pytest.mark.parametrize("student", SMALL_STUDENTS)
def test_three_classes_with_one_student_or_three(
    project: Any, tiny_spec: dict[str, Any], student: str, classes: str
) -> None:
    tiny_spec["dataset"] |= {"classes": ["weave", "discs", "tiles"], "train": 4, "test_normal": 2, "test_defective": 2}
    tiny_spec |= {"student": {"type": student, **SMALL_STUDENTS[student]}, "classes": classes}
    project.run_well(spec={**tiny_spec, "stages": [MEMORY, DISTILL, SELECT, EVALUATE]})
    assert set(project.json("metrics.json")["classes"]) == {"weave", "discs", "tiles"}
    stored = list(Path(project.json("select-finetune/artifact.json")["path"]).glob("student*.safetensors"))
    assert len(stored) == (1 if classes == "unified" else 3)
    rows = project.rows("selection.csv")
    assert {row["class"] for row in rows} == {"weave", "discs", "tiles"}, "every class has a threshold of its own"


def test_a_student_of_its_own_holds_what_belongs_to_its_class_alone(
    project: Any, tiny_spec: dict[str, Any], meds: Callable[..., Any]
) -> None:
    student = {"type": "hvq", **SMALL_STUDENTS["hvq"]}
    tiny_spec |= {"student": student, "classes": "separate"}
    for stages, name in (([MEMORY, DISTILL, SELECT, EVALUATE], "select-finetune"), ([FIT, EVALUATE], "fit")):
        project.run_well("--force", spec={**tiny_spec, "stages": stages})
        stored = sorted(Path(project.json(f"{name}/artifact.json")["path"]).glob("student*.safetensors"))
        assert len(stored) == 2
        for path in stored:
            state = load_file(path)
            assert state["top.codes"].shape[0] == 1
            assert state["lower.codes"].shape[0] == 4
            assert {name.split(".")[1] for name in state if name.startswith("heads.")} == {"0"}
            assert state["top.counts"].sum() > 0, "the codebook that is there has been used"
    done = meds("plan", project.spec, "--set", "seed=9")
    assert done.code == 0, done.err


def test_unlabelled_folder_gets_a_ranking_and_a_sentence(project: Any, tiny_spec: dict[str, Any]) -> None:
    folder = images(project.root / "parts", 8)
    done = project.run_well(spec=of_folder(tiny_spec, folder))
    assert "There are no labelled test images, so nothing is measured on them; the ranking is written." in done.said
    metrics = project.json("metrics.json")
    assert (metrics["classes"], metrics["mean"]) == ({}, {})
    assert metrics["ranking"]["classes"]["parts"] == {"auroc": None, "auprc": None, "inspection_depth": None}
    paths = sorted(str(path) for path in folder.iterdir())
    assert sorted(row["path"] for row in project.rows("ranking.csv")) == paths
    predictions = project.rows("predictions.csv")
    assert sorted(row["path"] for row in predictions) == paths
    assert {row["label"] for row in predictions} == {""}


def test_figures_without_masks_or_without_defects_are_null(project: Any, tiny_spec: dict[str, Any]) -> None:
    images(project.root / "parts/good", 8)
    images(project.root / "parts/bad", 3, start=20)
    spec = of_folder(tiny_spec, project.root / "parts", normal="good", abnormal="bad")
    project.run_well(spec=spec)
    figures = project.json("metrics.json")["classes"]["parts"]
    assert {key for key, value in figures.items() if value is None} == {k for k in figures if k.startswith("pixel")}
    assert project.json("metrics.json")["mean"]["pixel_aupro"] is None

    project.run_well("--set", "dataset.test_defective=0", spec={**tiny_spec, "noise": None})
    metrics = project.json("metrics.json")
    assert metrics["classes"]["weave"]["image_auroc"] is None
    assert metrics["mean"]["image_auroc"] is None


def test_the_same_image_twice_is_encoded_once_and_counts_twice(project: Any, tiny_spec: dict[str, Any]) -> None:
    folder = images(project.root / "parts", 6)
    (folder / "copy.png").write_bytes((folder / "000.png").read_bytes())
    project.run_well(spec=of_folder(tiny_spec, folder))
    assert project.events("features")[0]["images"] == 6
    scores = {Path(row["path"]).name: row["score"] for row in project.rows("ranking.csv")}
    assert len(scores) == 7
    assert scores["copy.png"] == scores["000.png"]


def test_images_of_other_sizes_and_modes_go_together(project: Any, tiny_spec: dict[str, Any]) -> None:
    folder = images(project.root / "parts", 4)
    images(folder, 2, size=90, start=10)
    Image.new("L", (31, 57), 128).save(folder / "grey.png")
    Image.new("RGBA", (57, 31), (10, 200, 30, 40)).save(folder / "alpha.png")
    project.run_well(spec=of_folder(tiny_spec, folder))
    assert len(project.rows("predictions.csv")) == 8


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_both_recipes_run(project: Any, tiny_spec: dict[str, Any], recipe: str) -> None:
    project.run_well("--set", f"recipe={recipe}", "--set", "stages.memory.banks=5", spec=tiny_spec)
    memory = Path(project.json("memory/artifact.json")["path"])
    assert project.computed() == ["memory", "distill", "select-finetune", "evaluate"]
    assert ("euclidean" if recipe == "paper" else "cosine") in (memory / "manifest.json").read_text()
    last = project.rows("selection.csv")[-1]
    assert float(last["k"]) == pytest.approx((1 if recipe == "paper" else 3) * int(last["iteration"]) / 6)


def test_fair_noise_leaves_injected_images_out_of_the_test(project: Any, tiny_spec: dict[str, Any]) -> None:
    project.run_well("--set", "noise.overlap=false", spec=tiny_spec)
    rows = project.rows("data.csv")
    assert sum(row["split"] == "test" for row in rows) == 16 - 4
    assert len(project.rows("predictions.csv")) == 12
    assert project.json("metrics.json")["noise"]["overlap"] is False


def test_brackets_in_a_class_s_name_are_shown(
    project: Any, tiny_spec: dict[str, Any], meds: Callable[..., Any]
) -> None:
    for name in ("rim [old]", "rim [new]"):
        (project.root / "set" / name).mkdir(parents=True)
        for number in range(8):
            noise = np.random.default_rng(number).integers(0, 255, (64, 64), dtype=np.uint8)
            Image.fromarray(noise).save(project.root / "set" / name / f"{number}.png")
    dataset = {"type": "folder", "path": str(project.root / "set"), "class_folders": True, "exclude": ["*_[ab].png"]}
    done = project.run_well(spec={**tiny_spec, "noise": None, "dataset": dataset})
    assert all(name in done.said for name in ("rim [old]", "rim [new]"))
    assert "*_[ab].png" in meds("plan", project.spec, "--without-data").said
