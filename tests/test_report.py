"""`meds report` of one run: what stands on the page and in its figures is what stands in the run's files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished, Project, run_command
from page_cases import HARMFUL, Page, rename

from meds.core.finished_run import FinishedRun
from meds.reports import charts
from meds.reports.examples import example_groups
from meds.reports.facts import in_short, stage_facts
from meds.reports.pictures import ReportPictures
from meds.reports.training_scores import panels, selection_course, training_scores

CLASSES = ("discs", "weave")


def written(project: Any, meds: Callable[..., Finished], *arguments: object) -> Page:
    """The page of a run's report, sound in itself."""
    done = meds("report", project.runs / "tiny", *arguments)
    assert done.code == 0, done.err
    page = Page(project.file("report.html").read_text(encoding="utf-8"))
    page.assert_sound()
    return page


def change(project: Any, name: str, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit a JSON file of the run."""
    content = project.json(name)
    edit(content)
    project.file(name).write_text(json.dumps(content))


@pytest.fixture(scope="module")
def page(_finished_once: Path) -> Page:
    """The page of the finished run, written once for the tests that only read it."""
    target = _finished_once / "page.html"
    assert run_command("report", _finished_once / "runs" / "tiny", "--output", target).code == 0
    found = Page(target.read_text(encoding="utf-8"))
    found.assert_sound()
    return found


def test_figures_and_decisions_are_those_of_the_files(finished: Any, page: Page) -> None:
    metrics = finished.json("metrics.json")
    keys = ["image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "pixel_f1max", "pixel_aupro"]
    for name in CLASSES:
        figures = metrics["classes"][name]
        assert page.row(name, f"{100 * figures['image_auroc']:.1f}")[1:] == [
            f"{100 * figures[key]:.1f}" for key in keys
        ]
        rows = [row for row in finished.rows("predictions.csv") if row["class"] == name]
        above = [float(row["score"]) > float(row["threshold"]) for row in rows]
        alarms, found = (sum(a for a, row in zip(above, rows, strict=True) if row["label"] == k) for k in "01")
        promise = metrics["calibration"][name]
        cells = page.row(name, f"{promise['threshold']:.4g}")
        assert cells[2] == "1.0"
        assert (cells[-2].split(" (")[0], cells[-1].split(" (")[0]) == (f"{alarms} of 4", f"{found} of 4")
        assert cells[5] == f"{promise['images']} {'held out' if promise['held_out'] else 'trained on'}"
    assert page.row("mean of classes")[1:] == [f"{100 * metrics['mean'][key]:.1f}" for key in keys]
    total = sum(row["decision"] == "anomalous" and row["label"] == "1" for row in finished.rows("predictions.csv"))
    assert f"The detector finds {total} of 8 defective test images" in page.text


def test_what_was_run_and_what_it_cost(finished: Any, page: Page) -> None:
    state = finished.json("run.json")
    assert page.row("Device")[1] == state["device"]
    assert f"torch {state['versions']['torch']}" in page.row("Versions")[1]
    assert "blocks: [1, 1, 1]" in page.row("Student")[1]
    assert page.row("distill")[1] == "iterations: 4, batch_size: 4"
    assert [
        row[0] for row in page.rows if row[0] in ("features", "memory", "distill", "select-finetune", "evaluate")
    ] == [
        "features",
        *(stage["name"] for stage in state["stages"]),
    ]
    assert page.row("weave", "10")[1:] == ["10", "2", "25.0", "20.0", "4", "4", "4"]
    assert "4 test images are training images too" in page.text
    assert finished.file("spec.yaml").read_text().splitlines()[-1] in page.text


def test_every_class_has_its_figures_in_words(finished: Any, page: Page) -> None:
    assert len(page.figures) == 8
    for name in CLASSES:
        figures = finished.json("metrics.json")["ranking"]["classes"][name]
        said = page.figure("Precision", name)["desc"]
        assert f"AUPRC {100 * figures['auprc']:.1f} %" in said
        assert f"first {100 * figures['inspection_depth']:.1f} %" in said
        last = [row for row in finished.rows("selection.csv") if row["class"] == name][-1]
        said = page.figure("Selected share", name)["desc"]
        assert f"{last['selected']} of 10 images are selected, {last['injected_selected']} of the 2 known" in said
        assert f"to {float(last['threshold']):.4g}" in said
        assert (
            "10 training images, 2 of them known defects" in page.figure("training images", "Histograms", name)["desc"]
        )
        assert "of 4 defective ones" in page.figure("test images", name)["desc"]


def test_the_scores_before_and_after_are_the_stored_ones(finished: Any) -> None:
    run = FinishedRun(finished.runs / "tiny")
    points = training_scores(run)
    assert [point.title for point in points] == ["Memory", "Distilled student", "After training"]
    maps = run.artifact("memory").tensors("scores")["maps"].numpy()
    top = math.ceil(maps[0].size / 100)
    slow = [float(np.sort(one.ravel())[::-1][:top].mean()) for one in maps]
    np.testing.assert_allclose(points[0].scores, slow, rtol=1e-6)
    by_path = {row["path"]: float(row["score"]) for row in finished.rows("ranking.csv")}
    both = np.sqrt(points[0].scores * points[2].scores)
    np.testing.assert_allclose(both, [by_path[s.record.path] for s in run.data.train], rtol=1e-6)
    for index, name in enumerate(CLASSES):
        first = next(row for row in finished.rows("selection.csv") if row["class"] == name)
        (drawn,) = panels(run, points[1:2], index)
        both = np.concatenate([drawn.others, drawn.defects])
        assert (both < float(first["threshold"])).sum() == int(first["selected"])
        assert (drawn.defects < float(first["threshold"])).sum() == int(first["injected_selected"])


def test_a_selection_that_starts_from_the_memory_shows_it_once(tiny_spec: Any, project: Project) -> None:
    tiny_spec["stages"][2]["criterion"] = "memory"
    project.run_well(spec=tiny_spec)
    titles = [point.title for point in training_scores(FinishedRun(project.runs / "tiny"))]
    assert titles == ["Memory", "After training"]


def drawn(draw: Callable[..., None], *arguments: Any, **named: Any) -> Any:
    """A matplotlib figure after drawing."""
    from matplotlib.figure import Figure

    figure = Figure()
    draw(figure, *arguments, **named)
    return figure


def test_histograms_count_every_image(finished: Any) -> None:
    run = FinishedRun(finished.runs / "tiny")
    shown = panels(run, training_scores(run), 0)
    figure = drawn(charts.draw_scores, shown, ("others", "known defects"))
    for axes, panel in zip(figure.axes, shown, strict=True):
        bars = [patch for patch in axes.patches if patch.get_label() in ("others", "known defects")]
        assert [patch.get_data().values.sum() for patch in bars] == [8, 2]
        assert [patch.get_linestyle() for patch in bars] == ["solid", "--"]
        edges = bars[0].get_data().edges
        assert edges[0] <= min(panel.others.min(), panel.defects.min())
        assert edges[-1] >= max(panel.others.max(), panel.defects.max())
        assert axes.get_xlabel()
        assert axes.get_ylabel() == "number of images"


@pytest.mark.parametrize("values", [[0.5, 0.5, 0.5], [0.1], [0.0, 1e-9, 5.0], list(np.linspace(0, 1, 5000) ** 6)])
def test_odd_scores_have_a_histogram(values: list[float]) -> None:
    panel = charts.ScorePanel("odd", np.array(values), np.array([]))
    (axes,) = drawn(charts.draw_scores, [panel], ("images", "defects")).axes
    counts = axes.patches[-1].get_data().values
    assert counts.sum() == len(values)
    assert 10 <= len(counts) <= 40


@pytest.mark.parametrize("threshold", [0.3, 0.123, 0.9999, 0.0001])
def test_no_bar_lies_on_both_sides_of_the_threshold(threshold: float) -> None:
    random = np.random.default_rng(0)
    others, defects = random.uniform(0, 0.2, 60), random.uniform(0, 1, 20)
    edges = charts.bin_edges(others, np.append(defects, [0, 1]), threshold)
    assert threshold in edges
    assert edges[0] <= 0
    assert edges[-1] >= 1
    assert len(edges) <= 43
    shown = charts.ScorePanel("test", others, defects, 0.1)
    (axes,) = drawn(charts.draw_scores, [shown], ("normal", "defective")).axes
    for patch, values in zip(
        (p for p in axes.patches if p.get_label() in ("normal", "defective")), (others, defects), strict=True
    ):
        counts, ends, _ = patch.get_data()
        assert counts.sum() == len(values)
        assert counts[ends[:-1] >= 0.1 - 1e-12].sum() == (values > 0.1).sum()


def test_the_selection_s_course_is_the_table(finished: Any) -> None:
    run = FinishedRun(finished.runs / "tiny")
    rows = [row for row in finished.rows("selection.csv") if row["class"] == "weave"]
    course = selection_course(run, "weave")
    assert course is not None
    above, below = drawn(charts.draw_selection, course).axes
    others, defects = (line.get_ydata() for line in above.lines)
    np.testing.assert_allclose(defects, [100 * int(row["injected_selected"]) / 2 for row in rows])
    chosen = [100 * (int(row["selected"]) - int(row["injected_selected"])) / 8 for row in rows]
    np.testing.assert_allclose(others, chosen)
    np.testing.assert_allclose(below.lines[0].get_ydata(), [float(row["threshold"]) for row in rows])
    np.testing.assert_allclose(above.lines[0].get_xdata(), [int(row["iteration"]) for row in rows])
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in above.lines}) == 2


def test_without_known_defects_the_selection_is_one_line(finished: Any) -> None:
    rename(finished.file("data.csv"), {})
    text = finished.file("data.csv").read_text().replace(",1\n", ",0\n").replace(",1\r\n", ",0\r\n")
    finished.file("data.csv").write_text(text)
    course = selection_course(FinishedRun(finished.runs / "tiny"), "weave")
    assert course is not None
    above, _ = drawn(charts.draw_selection, course).axes
    rows = [row for row in finished.rows("selection.csv") if row["class"] == "weave"]
    (line,) = above.lines
    np.testing.assert_allclose(line.get_ydata(), [100 * int(row["selected"]) / 10 for row in rows])


def test_the_ranking_curve_holds_the_area_of_the_metrics(finished: Any) -> None:
    for name in CLASSES:
        rows = [row for row in finished.rows("ranking.csv") if row["class"] == name]
        truth = np.array([row["injected"] == "1" for row in rows])
        recall, precision = charts.precision_recall(np.array([float(row["score"]) for row in rows]), truth)
        wanted = finished.json("metrics.json")["ranking"]["classes"][name]["auprc"]
        assert np.sum(np.diff(recall) * precision[1:]) == pytest.approx(wanted)
        for depth in range(1, 11):  # by hand: what a person has found after so many images
            found = truth[:depth].sum()
            assert any(np.isclose(recall, found / 2) & np.isclose(precision, found / depth))
        (axes,) = drawn(charts.draw_precision_recall, recall, precision, 0.2).axes
        np.testing.assert_allclose(axes.lines[0].get_xdata(), 100 * recall)
        np.testing.assert_allclose(axes.lines[0].get_ydata(), 100 * precision)


def test_the_examples_are_the_extremes(finished: Any) -> None:
    run = FinishedRun(finished.runs / "tiny")
    rows = [(float(r["score"]) / float(r["threshold"]), r) for r in finished.rows("predictions.csv")]
    groups = example_groups(run, ReportPictures(run))
    defects = sorted((height, row["path"]) for height, row in rows if row["label"] == "1")
    normals = sorted((height, row["path"]) for height, row in rows if row["label"] == "0")
    wanted = [defects[::-1][:6], defects[:6], normals[::-1][:6]]
    assert [[one.path for one in group.examples] for group in groups] == [[path for _, path in part] for part in wanted]
    words = {True: {"found", "false alarm"}, False: {"missed", "normal"}}
    for group in groups:
        for one in group.examples:
            assert one.verdict in words[one.score > one.threshold]
            assert one.pair is not None
            assert one.pair.overlay is not None
            assert one.pair.outlined == (one.defect is not None)


def test_an_outline_goes_around_the_defect(finished: Any) -> None:
    from meds.reports.pictures import _outlined

    run = FinishedRun(finished.runs / "tiny")
    sample = next(sample for sample in run.data.test if sample.record.mask)
    image, mask = run.pipeline.dataset.read_image(sample.record), run.pipeline.dataset.read_mask(sample.record)
    assert mask is not None
    lines = _outlined(image, mask)
    changed = (lines != image).any(axis=2)
    assert changed.any()
    assert not (changed & mask).any()
    rows, columns = np.nonzero(mask)
    beyond = np.ones_like(mask)
    beyond[max(0, rows.min() - 4) : rows.max() + 5, max(0, columns.min() - 4) : columns.max() + 5] = False
    assert not (changed & beyond).any()


def test_missing_parts_are_left_out_with_a_sentence(
    tiny_spec: dict[str, Any], project: Project, meds: Callable[..., Finished]
) -> None:
    tiny_spec["dataset"] |= {"test_normal": 0, "test_defective": 0}
    tiny_spec |= {"noise": None, "stages": [{"type": "fit", "iterations": 2, "batch_size": 4}, tiny_spec["stages"][-1]]}
    project.run_well(spec=tiny_spec)
    page = written(project, meds)
    for sentence in (
        "There are no labelled test images, so that nothing can be measured on them",
        "none of the seven figures can be measured",
        "There are no test images.",
        "No stage of this run selects images.",
        "No training image is known to be a defect, so the ranking cannot be held against the truth.",
        "no defects were added to the training images, and none of them is known to be one",
    ):
        assert page.text.count(sentence) == 1
    assert [figure["title"] for figure in page.figures] == [
        f"Histograms of the scores of the training images, class {name}" for name in CLASSES
    ]
    assert "Images without a label" not in page.text or page.sources
    assert "pixel AUROC" not in page.text
    assert not [row for row in page.rows if not row]


def test_runs_without_masks_say_so(finished: Any, meds: Callable[..., Finished]) -> None:
    def without_pixels(metrics: dict[str, Any]) -> None:
        for figures in (*metrics["classes"].values(), metrics["mean"]):
            figures |= {key: None for key in figures if key.startswith("pixel")}

    change(finished, "metrics.json", without_pixels)
    page = written(finished, meds)
    assert "the four pixel figures cannot be measured" in page.text
    assert "pixel AUPRO" not in page.text


def test_a_run_of_an_older_version(finished: Any, meds: Callable[..., Finished]) -> None:
    change(finished, "metrics.json", lambda metrics: metrics.pop("calibration"))
    page = written(finished, meds)
    assert page.text.count("which stored neither what the thresholds promise nor a colour scale") == 1
    assert not any("Anomaly map" in text for text in page.alternatives)


def test_a_run_whose_spec_is_not_understood(finished: Any, meds: Callable[..., Finished]) -> None:
    spec = finished.file("spec.yaml")
    spec.write_text(spec.read_text().replace("aupro_limit:", "former_limit:"))
    page = written(finished, meds)
    assert page.text.count("is not understood by the version of meds") == 1
    assert page.sources == []
    assert len(page.figures) == 6


def test_names_do_no_harm(finished: Any, meds: Callable[..., Finished]) -> None:
    paths = [row["path"] for row in finished.rows("predictions.csv") if row["label"] == "1"]
    for name in ("predictions.csv", "data.csv"):
        rename(finished.file(name), dict.fromkeys(paths[:4], HARMFUL[0]) | dict.fromkeys(paths[4:], HARMFUL[1]))
    change(finished, "run.json", lambda state: state.update(name="<b>tiny</b>", device="<i>cpu</i>"))
    page = written(finished, meds)
    assert all(name in page.text for name in (*HARMFUL, "<b>tiny</b>", "<i>cpu</i>"))
    assert "The image is not there any more, or another one is in its place." in page.text
    assert "b" not in set(page.tags) - {"b"}


def test_options_in_short(finished: Any) -> None:
    run = FinishedRun(finished.runs / "tiny")
    assert in_short(run.spec.backbone) == "efficientnet-lite0 (image_size: 64, pretrained: false)"
    assert {row.name: row.options for row in stage_facts(run, readable=True)}["memory"] == ""
    spec = finished.file("spec.yaml")
    spec.write_text(spec.read_text().replace("median: lower", "median: middle"))
    changed = {row.name: row.options for row in stage_facts(FinishedRun(finished.runs / "tiny"), readable=True)}
    assert "rule: {median: middle, type: median-mad}" in changed["select-finetune"]


def test_the_page_can_stand_elsewhere(finished: Any, meds: Callable[..., Finished], tmp_path: Path) -> None:
    done = meds("report", finished.runs / "tiny", "--output", tmp_path / "a folder" / "page.html")
    assert done.code == 0, done.err
    assert not finished.file("report.html").exists()
    Page((tmp_path / "a folder" / "page.html").read_text()).assert_sound()
    done = meds("rank", finished.runs / "tiny", "--top", "1", "--output", tmp_path)
    assert (done.code, "Traceback" in done.err) == (2, False)
