"""Nothing stale is taken for fresh: masks, decisions and encoders that change between two commands."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from conftest import Finished
from PIL import Image
from safetensors.torch import save_file

from meds.core.decision_table import append_decision
from meds.core.decisions import Decision, apply_decisions
from meds.core.finished_run import FinishedRun


def put(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64), dtype=np.uint8)).save(path)


def put_mask(path: Path, square: slice) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[square, square] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """A class in the layout of MVTec AD."""
    folder = tmp_path / "part"
    for number in range(8):
        put(folder / "train/good" / f"{number}.png", number)
    for number in range(3):
        put(folder / "test/good" / f"{number}.png", 100 + number)
        put(folder / "test/hole" / f"{number}.png", 200 + number)
        put_mask(folder / "ground_truth/hole" / f"{number}_mask.png", slice(0, 64))
    return folder


def fitted(tiny_spec: dict[str, Any], folder: Path, **more: Any) -> dict[str, Any]:
    stages = [{"type": "fit", "iterations": 2, "batch_size": 4}, tiny_spec["stages"][-1]]
    dataset = {"type": "mvtec", "path": str(folder)}
    return {**tiny_spec, "noise": None, "dataset": dataset, "stages": stages, **more}


def test_corrected_masks_are_measured(project: Any, tiny_spec: dict[str, Any], part: Path) -> None:
    project.run_well(spec=fitted(tiny_spec, part))
    before = project.json("metrics.json")["mean"]
    for number in range(3):
        put_mask(part / "ground_truth/hole" / f"{number}_mask.png", slice(0, 8))
    project.run_well()
    after = project.json("metrics.json")["mean"]
    assert (after["image_auroc"], after["pixel_ap"] < before["pixel_ap"]) == (before["image_auroc"], True)
    assert project.computed() == ["fit", "evaluate", "evaluate"]
    assert project.json("earlier/metrics.json")["mean"] == before


def test_a_mask_of_several_files_counts_with_all_of_them(project: Any, tiny_spec: dict[str, Any], part: Path) -> None:
    for number in range(3):
        (part / "ground_truth/hole" / f"{number}_mask.png").unlink()
        put_mask(part / "ground_truth/hole" / str(number) / "0.png", slice(0, 8))
        put_mask(part / "ground_truth/hole" / str(number) / "1.png", slice(40, 48))
    project.run_well(spec=fitted(tiny_spec, part))
    put_mask(part / "ground_truth/hole/0/1.png", slice(32, 48))
    project.run_well()
    assert project.computed() == ["fit", "evaluate", "evaluate"]


def test_a_run_from_before_masks_were_hashed_is_opened(finished: Any, meds: Callable[..., Finished]) -> None:
    path = finished.runs / "tiny" / "data.csv"
    with path.open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k != "mask_sha256"} for row in csv.DictReader(file)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert meds("rank", finished.runs / "tiny").code == 0


def test_new_confirmations_put_the_old_reports_away(finished: Any, tiny_spec: dict[str, Any]) -> None:
    """The thresholds of one student must not judge what another one scores."""
    table = finished.root / "decisions.csv"
    rows = finished.rows("data.csv")
    digests = {row["path"]: row["sha256"] for row in rows}
    last = finished.rows("ranking.csv")[-1]["path"]

    def confirm(path: str) -> None:
        append_decision(table, Decision(path, digests[path], "normal", "ann", "2026-11-26T10:00:00+00:00"))

    confirm(last)
    finished.run_well("--decisions", table)
    metrics = finished.json("metrics.json")
    confirm(next(row["path"] for row in finished.rows("ranking.csv") if row["injected"] == "0"))
    finished.run_well("--decisions", table, "--until", "select-finetune")
    assert not (finished.runs / "tiny" / "metrics.json").exists()
    assert finished.json("earlier/metrics.json") == metrics
    finished.run_well("--decisions", table)
    run = FinishedRun(finished.runs / "tiny")
    assert run.evaluation.manifest["inputs"]["student"] == run.artifact("select-finetune").fingerprint


def test_a_stage_computed_again_on_its_own_leaves_the_others_done(finished: Any) -> None:
    finished.run_well("--until", "memory")
    state = finished.json("run.json")
    assert state["status"] == "done"
    assert [row["status"] for row in state["stages"]] == ["done"] * 4
    assert all(row["cost"] for row in state["stages"])


def test_another_encoder_than_the_run_s_is_refused(
    project: Any, tiny_spec: dict[str, Any], part: Path, meds: Callable[..., Finished]
) -> None:
    weights = project.root / "encoder.safetensors"
    save_file(timm.create_model("resnet18").state_dict(), weights)
    backbone = {"type": "timm", "model": "resnet18", "weights": str(weights), "image_size": 64}
    project.run_well(spec=fitted(tiny_spec, part, backbone=backbone))
    arguments = ("predict", project.runs / "tiny", part / "test", "-o", project.root / "out")
    assert meds(*arguments).code == 0
    save_file(timm.create_model("resnet18").state_dict(), weights)
    done = meds(*arguments)
    assert (done.code, f"{weights}: the file has changed since" in done.said) == (2, True)


def test_a_class_without_test_images_is_named(
    project: Any, tiny_spec: dict[str, Any], part: Path, tmp_path: Path
) -> None:
    for number in range(8):
        put(tmp_path / "other/train/good" / f"{number}.png", 300 + number)
    done = project.run_well(spec=fitted(tiny_spec, tmp_path, dataset={"type": "mvtec", "path": str(tmp_path)}))
    metrics = project.json("metrics.json")
    assert set(metrics["classes"]["other"].values()) == {None}
    assert metrics["mean"] == metrics["classes"]["part"]
    assert "The mean is without other: not both normal and defective images to test on." in done.said


@pytest.fixture
def student(project: Any, tiny_spec: dict[str, Any], part: Path) -> dict[str, Any]:
    """A student that begins from a checkpoint."""
    small = {"type": "dinomaly", "depth": 2}
    project.run_well(spec=fitted(tiny_spec, part, student=small))
    checkpoint = project.root / "official.safetensors"
    shutil.copy(Path(project.json("fit/artifact.json")["path"]) / "student.safetensors", checkpoint)
    return {**small, "weights": str(checkpoint)}


def test_a_finished_run_keeps_its_reports_when_it_cannot_begin_again(
    project: Any, tiny_spec: dict[str, Any], part: Path, student: dict[str, Any], meds: Callable[..., Finished]
) -> None:
    project.run_well(spec=fitted(tiny_spec, part, student=student))
    Path(student["weights"]).unlink()
    before = {path: path.read_bytes() for path in project.file("").rglob("*") if path.is_file()}
    done = project.run()
    assert (done.code, "official.safetensors" in done.said) == (2, True)
    assert {path: path.read_bytes() for path in project.file("").rglob("*") if path.is_file()} == before
    assert meds("rank", project.file("")).code == 0


@pytest.mark.parametrize("scoring", ["fit", "memory"])
def test_a_finished_run_needs_the_student_s_checkpoint_no_more(
    project: Any,
    tiny_spec: dict[str, Any],
    part: Path,
    student: dict[str, Any],
    meds: Callable[..., Finished],
    scoring: str,
) -> None:
    spec = fitted(tiny_spec, part, student=student)
    first = {"fit": spec["stages"][0], "memory": tiny_spec["stages"][0]}[scoring]
    project.run_well(spec={**spec, "stages": [first, spec["stages"][-1]]})
    Path(student["weights"]).unlink()
    done = meds("predict", project.file(""), part / "test", "-o", project.root / "out")
    assert done.code == 0, done.err


def test_the_corrected_mask_of_a_defect_that_was_moved_to_the_test_is_measured(finished: Any) -> None:
    data = FinishedRun(finished.runs / "tiny").data
    defect = next(sample for sample in data.train if sample.injected)
    decision = Decision(defect.record.path, defect.digest, "defect", "ann", "2026-11-26T10:00:00+00:00")
    alone = replace(data, test=())
    found = apply_decisions(alone, {defect.digest: decision}, defects_to_test=True).test
    assert [(s.mask_digest, s.injected, s.record.split) for s in found] == [(defect.mask_digest, False, "test")]
    assert defect.mask_digest


def test_after_until_an_early_evaluation_its_own_student_scores(finished: Any, tiny_spec: dict[str, Any]) -> None:
    memory, distill, *rest = tiny_spec["stages"]
    spec = {**tiny_spec, "stages": [memory, distill, {"type": "evaluate", "name": "early"}, *rest]}
    finished.run_well(spec=spec)
    run = FinishedRun(finished.file(""))
    assert run.evaluation.fingerprint == run.artifact("evaluate").fingerprint
    finished.run_well("--until", "early")
    run = FinishedRun(finished.file(""))
    assert run.evaluation.fingerprint == run.artifact("early").fingerprint
    assert run.scoring_block.name == "distill"
    assert run.artifact("evaluate").json("metrics")["thresholds"] != run.metrics["thresholds"]


def test_a_run_is_opened_in_today_s_home_if_its_own_was_moved(
    finished: Any, monkeypatch: pytest.MonkeyPatch, meds: Callable[..., Finished]
) -> None:
    home = finished.root / "home"
    home.rename(finished.root / "moved")
    monkeypatch.setenv("MEDS_HOME", str(finished.root / "moved"))
    assert FinishedRun(finished.file("")).scorer()
    monkeypatch.setenv("MEDS_HOME", str(finished.root / "empty"))
    done = meds("rank", finished.file(""))
    assert (done.code, f"it was made with MEDS_HOME={home}, which is gone" in done.said) == (2, True)


def test_reports_that_are_put_away_are_told(finished: Any, tiny_spec: dict[str, Any]) -> None:
    done = finished.run_well(spec={**tiny_spec, "seed": 9})
    assert f"is of other images, options or code; it lies in {finished.file('earlier')} now." in done.said
    assert "it lies in" not in finished.run_well().said
