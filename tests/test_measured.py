"""A finished run as one row: its figures, what it was measured on, and what its images have in common."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import Project

from meds.comparison.measured import Measured, measured
from meds.core.finished_run import FinishedRun

Change = Callable[[dict[str, str]], None]


def change_images(project: Project, change: Change) -> Measured:
    """The row of the finished run once every line of its data.csv has been changed."""
    rows = project.rows("data.csv")
    for row in rows:
        change(row)
    with project.file("data.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return measured(FinishedRun(project.file("")))


def test_a_row_has_the_run_s_own_figures(finished: Project) -> None:
    row, metrics = measured(FinishedRun(finished.file(""))), finished.json("metrics.json")
    assert (row.name, row.seed, row.noise) == ("tiny", 0, 0.25)
    assert row.figures["image_auroc"] == metrics["mean"]["image_auroc"]
    assert row.figures["ranking_auprc"] == metrics["ranking"]["mean"]["auprc"]
    assert '"type": "synthetic"' in row.dataset


def test_no_share_of_defects_is_selected_where_none_is_known(finished: Project) -> None:
    assert measured(FinishedRun(finished.file(""))).figures["injected_selected"] is not None
    row = change_images(finished, lambda line: line.update(injected="0"))
    assert row.figures["injected_selected"] is None


def test_images_in_both_splits_that_the_noise_did_not_put_there_are_counted(finished: Project) -> None:
    row = measured(FinishedRun(finished.file("")))
    assert (row.in_both_splits, row.leaked) == (4, 0)
    normal = next(line for line in finished.rows("data.csv") if line["split"] == "train" and line["injected"] == "0")
    seen: list[str] = []

    def leak(line: dict[str, str]) -> None:
        if line["split"] == "test" and line["label"] == "0" and not seen:
            seen.append(line["sha256"])
            line["sha256"] = normal["sha256"]

    assert change_images(finished, leak).leaked == 1


def test_other_images_have_another_digest(finished: Project) -> None:
    row = measured(FinishedRun(finished.file("")))
    other = change_images(finished, lambda line: line.update(sha256="0" * 64) if line["split"] == "train" else None)
    assert other.training_images != row.training_images
    assert other.test_images == row.test_images


def test_classes_without_masks_are_apart_from_those_without_figures(finished: Project) -> None:
    run = FinishedRun(finished.file(""))
    classes: dict[str, Any] = run.metrics["classes"]
    classes["weave"]["pixel_auroc"] = None
    row = measured(run)
    assert (row.not_in_means, row.not_in_pixel_means) == ([], ["weave"])
    classes["weave"]["image_auroc"] = None
    row = measured(run)
    assert (row.not_in_means, row.not_in_pixel_means) == (["weave"], [])


def test_specs_with_other_noise_are_told(
    tiny_spec: dict[str, Any], project: Project, meds: Callable[..., Any], tmp_path: Path
) -> None:
    paths = []
    for name, noise in (("a", {"overlap": True, "seed": 0}), ("b", {"overlap": False, "seed": 5})):
        spec = {**tiny_spec, "name": name, "noise": {"ratio": 0.25, "stratify": "class", **noise}}
        spec["stages"] = [{"type": "fit", "iterations": 0}, tiny_spec["stages"][-1]]
        paths.append(project.write(spec).rename(tmp_path / f"{name}.yaml"))
    done = meds("compare", *paths, "--runs-dir", project.runs)
    assert done.code == 0, done.err
    report = meds("report", project.runs / "a", project.runs / "b", "--output", tmp_path / "page.html")
    assert report.code == 0, report.err
    page = " ".join((tmp_path / "page.html").read_text(encoding="utf-8").split())
    for said in (done.said, page):
        assert "Not all rows of one seed are measured on the same test images: give their specs the same" in said
        assert "Not all rows of one seed and noise ratio are trained on the same images" in said
