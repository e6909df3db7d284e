"""`meds report` of several runs: rows, means and the robustness curve, from runs whose figures are known."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Finished
from matplotlib.figure import Figure
from page_cases import Page

from meds.comparison.caveats import OTHER_DATA
from meds.core.finished_run import FinishedRun
from meds.reports.charts import Line, draw_robustness
from meds.reports.facts import class_images
from meds.reports.several_runs import compare_runs

PLAIN = [{"type": "fit", "iterations": 6}, {"type": "evaluate"}]


def made_up(project: Any, name: str, auroc: float, **changes: Any) -> Path:
    """A copy of the finished run under another name, with another image AUROC, and other keys of its spec.

    `ratio` is the noise ratio that its files say was reached; 0 is a run without noise.
    """
    folder = project.runs / name
    shutil.copytree(project.runs / "tiny", folder)
    ratio = changes.pop("ratio", 0.25)
    spec = yaml.safe_load((folder / "spec.yaml").read_text())
    spec |= {"name": name, **changes}
    if ratio:
        spec["noise"] = {**spec["noise"], "ratio": ratio, "seed": spec["seed"]}
    else:
        spec["noise"] = None
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["mean"]["image_auroc"] = auroc
    metrics["noise"]["total"]["ratio_of_normal"] = ratio
    (folder / "metrics.json").write_text(json.dumps(metrics))
    state = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**state, "name": name, "seed": spec["seed"]}))
    if spec["stages"] == PLAIN:
        (folder / "selection.csv").unlink()
    return folder


@pytest.fixture
def six(finished: Any) -> list[Path]:
    """Two methods: one at two ratios with two seeds at the second, one without noise and at the second ratio."""
    return [
        made_up(finished, "full-10", 0.91, ratio=0.1),
        made_up(finished, "full-40-a", 0.80, ratio=0.4, seed=1),
        made_up(finished, "full-40-b", 0.84, ratio=0.4, seed=2),
        made_up(finished, "plain-0", 0.95, ratio=0, stages=PLAIN),
        made_up(finished, "plain-40", 0.60, ratio=0.4, seed=1, stages=PLAIN),
        made_up(finished, "plain-10", 0.70, ratio=0.1, stages=PLAIN),
    ]


def test_rows_means_and_labels(six: list[Path]) -> None:
    found = compare_runs([FinishedRun(path) for path in six])
    names = [row.name for row in found.rows]
    assert names == ["plain-0", "full-10", "plain-10", "full-40-a", "full-40-b", "plain-40"]
    wanted = ["rd, plain student" if name.startswith("plain") else "rd, full MeDS" for name in names]
    assert found.labels == wanted
    means = {(row.label, row.noise): row for row in found.means}
    both = means["rd, full MeDS", 0.4]
    assert (both.runs, both.lowest, both.highest) == (2, 0.80, 0.84)
    assert both.figures["image_auroc"] == pytest.approx(0.82)
    assert len(means) == 5
    assert OTHER_DATA not in found.missing


def test_the_share_of_known_defects_among_the_selected(finished: Any) -> None:
    (row,) = compare_runs([FinishedRun(finished.runs / "tiny")]).rows
    last = {table["class"]: table for table in finished.rows("selection.csv")}.values()
    share = sum(int(r["injected_selected"]) for r in last) / sum(int(r["selected"]) for r in last)
    assert row.figures["injected_selected"] == pytest.approx(share)


def test_other_options_make_another_line(finished: Any) -> None:
    spec = yaml.safe_load(finished.file("spec.yaml").read_text())
    stages = [
        {**stage, **({"critical_value": 3.0} if stage["type"] == "select-finetune" else {})} for stage in spec["stages"]
    ]
    paths = [finished.runs / "tiny", made_up(finished, "k3", 0.7, stages=stages, threads=2, seed=5)]
    assert compare_runs([FinishedRun(path) for path in paths]).labels == [
        "rd, full MeDS (select-finetune.critical_value: 1.0)",
        "rd, full MeDS (select-finetune.critical_value: 3.0)",
    ]
    found = compare_runs([FinishedRun(path) for path in (paths[0], made_up(finished, "other-seed", 0.7, seed=9))])
    assert found.labels == ["rd, full MeDS"] * 2


def test_noise_with_and_without_overlap_is_never_averaged(finished: Any) -> None:
    paths = [made_up(finished, "clean", 0.9, ratio=0), made_up(finished, "over", 0.8), made_up(finished, "fair", 0.7)]
    spec = yaml.safe_load((paths[2] / "spec.yaml").read_text())
    spec["noise"]["overlap"] = False
    (paths[2] / "spec.yaml").write_text(yaml.safe_dump(spec))
    found = compare_runs([FinishedRun(path) for path in paths])
    assert len(set(found.labels[1:])) == 2
    assert all("noise.overlap" in label for label in found.labels)
    (figure,) = [figure for figure in found.figures if "Image AUROC" in figure.svg]
    for label, value in (("true", "80.0"), ("false", "70.0")):
        assert f"rd, full MeDS (noise.overlap: {label}): 90.0 at 0.0 %, {value} at 25.0 %" in figure.svg


def test_one_page_compares_them(six: list[Path], finished: Any, meds: Callable[..., Finished]) -> None:
    target = finished.root / "page.html"
    done = meds("report", *six, six[0], "--output", target)
    assert done.code == 0, done.err
    page = Page(target.read_text())
    page.assert_sound()
    assert page.row("full-40-a")[1:5] == ["rd, full MeDS", "40.0", "1", "80.0"]
    assert page.row("40.0", "rd, full MeDS")[2:4] == ["2", "82.0"]
    assert "With more than 4 runs only their comparison is shown" in page.text
    said = page.figure("Image AUROC")["desc"]
    assert "rd, plain student: 95.0 at 0.0 %, 70.0 at 10.0 %, 60.0 at 40.0 %" in said
    assert "rd, full MeDS: 91.0 at 10.0 %, 82.0 at 40.0 %" in said


def test_two_runs_are_compared_and_shown_in_full(finished: Any, meds: Callable[..., Finished]) -> None:
    other = made_up(finished, "other", 0.9, seed=3)
    target = finished.root / "page.html"
    done = meds("report", finished.runs / "tiny", other, "--output", target)
    assert done.code == 0, done.err
    page = Page(target.read_text())
    page.assert_sound()
    assert {"#run-1", "#run-2"} <= set(page.links)
    assert "No two runs of one line differ in their noise ratio, so there is no robustness curve." in page.text
    assert len(page.figures) == 16


def test_a_reviewed_run_is_a_line_of_its_own_at_the_noise_that_is_left(finished: Any) -> None:
    reviewed = made_up(finished, "reviewed", 0.9, decisions={"file": "decisions.csv", "defects_to_test": False})
    table = (reviewed / "data.csv").read_text().splitlines(keepends=True)
    injected = [line for line in table if ",train," in line and line.endswith(",1\n")]
    assert len(injected) == 4
    (reviewed / "data.csv").write_text("".join(line for line in table if line not in injected[:3]))
    found = compare_runs([FinishedRun(finished.runs / "tiny"), FinishedRun(reviewed)])
    assert [(row.name, label) for row, label in zip(found.rows, found.labels, strict=True)] == [
        ("reviewed", "rd, full MeDS (decisions: given)"),
        ("tiny", "rd, full MeDS (decisions: none)"),
    ]
    assert found.rows[0].noise == pytest.approx(1 / 16)
    assert found.means == []
    images = class_images(FinishedRun(reviewed))
    assert sum(row.known_defects for row in images) == 1
    assert sorted(row.of_normal or 0 for row in images) == [0, pytest.approx(1 / 8)]


def test_other_images_are_told(finished: Any) -> None:
    spec = yaml.safe_load(finished.file("spec.yaml").read_text())
    other = made_up(finished, "other", 0.9, dataset={**spec["dataset"], "seed": 1})
    found = compare_runs([FinishedRun(finished.runs / "tiny"), FinishedRun(other)])
    assert found.missing[0] == OTHER_DATA
    assert found.labels[0] == "rd, full MeDS (dataset.seed: 0)"


def test_a_mistake_among_several_runs_is_one_sentence(finished: Any, meds: Callable[..., Finished]) -> None:
    done = meds("report", finished.runs / "tiny", finished.runs / "nothing")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "nothing: there is no such file or folder." in done.said


def test_the_curve_shows_means_and_ends() -> None:
    figure = Figure()
    lines = [Line("a", {0.0: [0.9], 0.4: [0.7, 0.8]}), Line("b", {0.4: [0.5]})]
    draw_robustness(figure, lines, "title", "unit (%)")
    (axes,) = figure.axes
    first, second = axes.containers
    np.testing.assert_allclose(first.lines[0].get_ydata(), [90, 75])
    np.testing.assert_allclose(first.lines[0].get_xdata(), [0, 40], atol=0.5)
    np.testing.assert_allclose(second.lines[0].get_xdata(), [40], atol=0.5)
    assert first.lines[0].get_xdata()[1] < second.lines[0].get_xdata()[0]
    (_, bar) = first.lines[2][0].get_segments()
    np.testing.assert_allclose(bar[:, 1], [70, 80])


def test_a_difference_of_nothing_does_not_look_steep() -> None:
    figure = Figure()
    draw_robustness(figure, [Line("a", {0.0: [0.9], 0.1: [0.899]})], "title", "unit (%)")
    low, high = figure.axes[0].get_ylim()
    assert high - low == pytest.approx(5)
    assert low < 89.9 < 90 < high


def test_the_caption_tells_of_seeds_where_there_are_some(six: list[Path]) -> None:
    captions = {figure.caption for figure in compare_runs([FinishedRun(path) for path in six]).figures}
    assert captions == {"Means of 6 runs; bars from the lowest to the highest seed, set a little apart."}
    one = compare_runs([FinishedRun(six[0]), FinishedRun(six[1])]).figures
    assert {figure.caption for figure in one} == {"Each point is one run."}


def test_a_dozen_lines_differ_without_their_colours() -> None:
    figure = Figure()
    draw_robustness(figure, [Line(str(i), {0.0: [0.9], 0.1: [0.8]}) for i in range(12)], "title", "unit (%)")
    looks = [
        (container.lines[0].get_linestyle(), container.lines[0].get_marker()) for container in figure.axes[0].containers
    ]
    dashes = [container.lines[0]._unscaled_dash_pattern for container in figure.axes[0].containers]
    assert len({(str(dash), look[1]) for dash, look in zip(dashes, looks, strict=True)}) == 12
