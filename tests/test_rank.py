"""`meds rank`: the contact sheet shows the ranking, needs nothing but itself, and file names do no harm."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished
from page_cases import HARMFUL, Page, rename

from meds.core.contamination_estimate import estimate_contamination
from meds.core.finished_run import FinishedRun
from meds.core.run_directory import RunDirectory
from meds.reports import ranking as sheet
from meds.reports.page import common_folder, file_url
from meds.reports.ranking import read_ranking, write_sheet


def test_the_sheet_shows_the_first_images_and_lists_the_others(finished: Any, meds: Callable[..., Finished]) -> None:
    done = meds("rank", finished.runs / "tiny", "--top", "5")
    assert done.code == 0, done.err
    page = Page(finished.file("ranking.html").read_text())
    page.assert_sound()
    rows = finished.rows("ranking.csv")
    assert len(page.sources) == 10
    assert page.alternatives[::2] == [f"Image {row['path']}" for row in rows[:5]]
    folder = common_folder([row["path"] for row in rows])
    assert folder == "synthetic/"
    assert f"Paths are below {folder}" in page.text
    places = [page.text.index(row["path"].removeprefix(folder)) for row in rows]
    assert places == sorted(places)
    assert "The other 15" in page.text
    assert "too few training images to tell" in page.text


def test_the_figures_are_those_of_the_run(finished: Any, meds: Callable[..., Finished]) -> None:
    meds("rank", finished.runs / "tiny", "--top", "1")
    page = Page(finished.file("ranking.html").read_text())
    for name, figures in finished.json("metrics.json")["ranking"]["classes"].items():
        wanted = [f"{100 * figures[key]:.1f}" for key in ("auroc", "auprc", "inspection_depth")]
        assert page.row(name) == [name, "10", "–", "too few images", "2", *wanted]


def test_tags_tell_what_was_selected_and_what_is_known(finished: Any, meds: Callable[..., Finished]) -> None:
    meds("rank", finished.runs / "tiny")
    source = finished.file("ranking.html").read_text()
    rows = finished.rows("ranking.csv")
    assert source.count(">not selected<") == sum(row["selected"] == "0" for row in rows)
    assert source.count(">known defect<") == sum(row["injected"] == "1" for row in rows)
    finished.file("selection.csv").unlink()
    meds("rank", finished.runs / "tiny")
    text = Page(finished.file("ranking.html").read_text()).text
    assert "not selected" not in text
    assert "Nothing in this run selects images" in text


def test_another_spec_takes_the_pages_of_the_former_away(finished: Any, meds: Callable[..., Finished]) -> None:
    meds("rank", finished.runs / "tiny", "--top", "1")
    run = FinishedRun(finished.runs / "tiny")
    directory = RunDirectory(run.path)
    directory.prepare(run.spec.to_yaml(), run.data, {})
    assert finished.file("ranking.html").exists()
    directory.prepare(run.spec.to_yaml() + "# changed", run.data, {})
    assert not finished.file("ranking.html").exists()


def test_how_far_down_to_look(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meds.core.contamination_estimate.FEWEST_IMAGES", 5)
    rows = finished.rows("ranking.csv")
    # What a tiny training makes of the images says little; here the first four stand out.
    for place, row in enumerate(rows):
        row["score"] = str((0.5 if place < 4 else 0.1) * 0.97**place)
    with finished.file("ranking.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    run = FinishedRun(finished.runs / "tiny")
    ranking = read_ranking(run)
    scores = [float(row["score"]) for row in rows]
    labels = [run.data.class_names.index(row["class"]) for row in rows]
    chances = estimate_contamination(scores, labels, run.spec.seed).probabilities
    assert ranking.expected is not None
    assert ranking.expected.count == pytest.approx(chances.sum())
    assert chances[: ranking.reach].sum() >= 0.9 * chances.sum() > chances[: ranking.reach - 1].sum()
    assert ranking.known == 4
    assert ranking.known_within_reach == sum(row["injected"] == "1" for row in rows[: ranking.reach])
    by_class = [row.expected.count for row in ranking.classes if row.expected]
    assert sum(by_class) == pytest.approx(ranking.expected.count)
    write_sheet(run, ranking, finished.root / "page.html", 2)
    page = Page((finished.root / "page.html").read_text())
    page.assert_sound()
    sentence = f"About {ranking.expected.count:.0f} of 20 training images stand out as defects would"
    assert sentence in page.text
    assert f"among the first {ranking.reach} of the ranking. In fact 4 images are known defects" in page.text


def test_json(finished: Any, meds: Callable[..., Finished]) -> None:
    found = json.loads(meds("rank", finished.runs / "tiny", "--top", "3", "--json").out)
    assert [row["path"] for row in found["images"]] == [row["path"] for row in finished.rows("ranking.csv")[:3]]
    for row, kept in zip(found["images"], finished.rows("ranking.csv"), strict=False):
        assert (row["rank"], row["score"]) == (int(kept["rank"]), float(kept["score"]))
        assert (row["selected"], row["injected"]) == (int(kept["selected"]), int(kept["injected"]))
    assert found["expected_defects"] is None
    assert (found["known_defects"], found["look_down_to_rank"]) == (4, 0)
    figures = finished.json("metrics.json")["ranking"]["classes"]["discs"]
    assert found["classes"]["discs"] == {"images": 10, "expected_defects": None, "known_defects": 2, **figures}


def test_the_table_in_the_terminal(finished: Any, meds: Callable[..., Finished]) -> None:
    done = meds("rank", finished.runs / "tiny")
    first = finished.rows("ranking.csv")[0]
    assert "Images below synthetic/" in done.said
    assert first["path"].removeprefix("synthetic/") in done.said
    assert "discs: 2 of 10 are known defects; AUPRC" in done.said
    assert f"Written to {finished.file('ranking.html')}." in done.said


def test_names_are_escaped_and_missing_images_are_told(finished: Any, meds: Callable[..., Finished]) -> None:
    rows = finished.rows("ranking.csv")
    names = {rows[0]["path"]: HARMFUL[0], rows[-1]["path"]: HARMFUL[1]}
    for table in ("ranking.csv", "data.csv"):
        rename(finished.file(table), names)
    done = meds("rank", finished.runs / "tiny", "--top", "3")
    assert done.code == 0, done.err
    page = Page(finished.file("ranking.html").read_text())
    page.assert_sound()
    assert all(name in page.text for name in HARMFUL)
    assert "The image is not there any more, or another one is in its place." in page.text
    assert len(page.sources) == 4


def test_a_long_ranking_is_cut_with_a_word(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "MOST_TABLE_ROWS", 6)
    run = FinishedRun(finished.runs / "tiny")
    write_sheet(run, read_ranking(run), finished.root / "page.html", 3)
    text = Page((finished.root / "page.html").read_text()).text
    assert "The next 6" in text
    assert "11 more images stand in ranking.csv." in text


def test_a_run_without_a_colour_scale_shows_its_images_alone(finished: Any, meds: Callable[..., Finished]) -> None:
    metrics = finished.json("metrics.json")
    del metrics["calibration"]
    finished.file("metrics.json").write_text(json.dumps(metrics))
    assert meds("rank", finished.runs / "tiny", "--top", "4").code == 0
    page = Page(finished.file("ranking.html").read_text())
    page.assert_sound()
    assert len(page.sources) == 4
    assert "stored no colour scale" in page.text


def test_a_run_of_another_version_is_still_a_table(finished: Any, meds: Callable[..., Finished]) -> None:
    spec = finished.file("spec.yaml")
    spec.write_text(spec.read_text().replace("aupro_limit:", "former_limit:"))
    assert meds("rank", finished.runs / "tiny", "--top", "4").code == 0
    page = Page(finished.file("ranking.html").read_text())
    page.assert_sound()
    assert page.sources == []
    assert "is not understood by the version of meds" in page.text
    assert "unknown key 'former_limit'" in page.text


@pytest.mark.parametrize("command", ["rank", "report"])
def test_mistakes_are_one_sentence(finished: Any, meds: Callable[..., Finished], command: str) -> None:
    run = finished.runs / "tiny"

    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: shutil.rmtree(finished.root / "home" / "store"), "Run the spec again: `meds run"),
        (finished.file("metrics.json").unlink, "the run has no evaluation yet"),
        (finished.file("run.json").unlink, "is not a run directory"),
    ]
    for harm, sentence in cases:
        harm()
        done = meds(command, run)
        assert (done.code, sentence in done.said, "Traceback" in done.err) == (2, True, False), done.err
        assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("paths", "folder"),
    [
        (["/data/a/1.png", "/data/a/2.png"], "/data/a/"),
        (["/data/a/1.png", "/data/b/c/2.png"], "/data/"),
        (["/1.png", "/data/2.png"], ""),
        (["a/1.png", "/data/2.png"], ""),
        (["1.png"], ""),
        ([], ""),
    ],
)
def test_common_folder(paths: list[str], folder: str) -> None:
    assert common_folder(paths) == folder
    assert all(path.startswith(folder) for path in paths)


def test_links_to_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert file_url("/a b/ü#.png") == "file:///a%20b/%C3%BC%23.png"
    monkeypatch.chdir(tmp_path)
    assert file_url("no/file.png") is None
    (tmp_path / "here.png").touch()
    assert file_url("here.png") == f"file://{tmp_path}/here.png"


def test_maps_are_drawn_on_the_scale_of_the_class(finished: Any) -> None:
    from meds.core.heatmaps import hex_colours

    colours = hex_colours(9)
    assert len(colours) == 9
    assert all(len(colour) == 7 and colour.startswith("#") for colour in colours)
    brightness = [sum(bytes.fromhex(colour[1:])) for colour in colours]
    assert np.all(np.diff(brightness) > 0)
