"""`meds predict`: the same scores as the run's own, for files, folders and globs, whatever else lies there."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished
from PIL import Image

from meds.core.dataset import Dataset
from meds.core.errors import DataError
from meds.core.finished_run import FinishedRun
from meds.core.predict import Prediction, Predictor
from meds.plugins.datasets.synthetic import SyntheticDataset


@pytest.fixture
def pictures(finished: Any) -> Path:
    """The finished run's test images as files, in a folder for each class."""
    run = FinishedRun(finished.runs / "tiny")
    dataset = run.pipeline.dataset
    assert isinstance(dataset, SyntheticDataset)
    for number, sample in enumerate(run.data.test):
        path = finished.root / "pictures" / sample.record.class_name / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(dataset.read_image(sample.record)).save(path)
    return finished.root / "pictures"


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_scores_thresholds_and_decisions_are_the_run_s_own(
    finished: Any, pictures: Path, meds: Callable[..., Finished]
) -> None:
    out = finished.root / "out"
    done = meds("predict", finished.runs / "tiny", pictures, "--output", out)
    assert done.code == 0, done.err
    own = finished.rows("predictions.csv")
    found = sorted(rows(out), key=lambda row: Path(row["path"]).name)
    assert [(r["class"], r["decision"]) for r in found] == [(r["class"], r["decision"]) for r in own]
    for row, expected in zip(found, own, strict=True):
        assert float(row["score"]) == pytest.approx(float(expected["score"]), rel=1e-5)
        assert float(row["threshold"]) == pytest.approx(float(expected["threshold"]), rel=1e-6)
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == [row["path"] for row in rows(out)]
    assert f"{sum(row['decision'] == 'anomalous' for row in own)} of 16 images are anomalous" in done.said


def test_heatmaps_and_masks_have_the_image_s_size_and_a_scale_of_the_class(
    finished: Any, pictures: Path, meds: Callable[..., Finished]
) -> None:
    big = pictures / "weave" / "big.png"
    Image.open(pictures / "weave" / "08.png").resize((150, 90)).save(big) if (
        pictures / "weave" / "08.png"
    ).exists() else (Image.open(next((pictures / "weave").glob("*.png"))).resize((150, 90)).save(big))
    out = finished.root / "out"
    assert meds("predict", finished.runs / "tiny", big, "--output", out).code == 0
    row = rows(out)[0]
    assert Image.open(out / row["heatmap"]).size == (150, 90)
    mask = np.array(Image.open(out / row["mask"]))
    assert set(np.unique(mask)) <= {0, 255}
    run = FinishedRun(finished.runs / "tiny")
    predictor = Predictor(run)
    map_ = predictor.predict([np.array(Image.open(big).convert("RGB"))], ["weave"])[0].map
    share = (map_ > predictor.thresholds.pixel["weave"]).mean()
    assert (mask > 0).mean() == pytest.approx(share, abs=0.05)


def test_heatmaps_of_large_images_are_made_smaller(
    finished: Any, pictures: Path, meds: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meds.core.heatmaps.LONGEST_SIDE", 60)
    big = pictures / "weave" / "big.png"
    Image.open(next((pictures / "weave").glob("*.png"))).resize((150, 90)).save(big)
    out = finished.root / "out"
    assert meds("predict", finished.runs / "tiny", big, "--output", out).code == 0
    row = rows(out)[0]
    assert Image.open(out / row["heatmap"]).size == (60, 36)
    assert Image.open(out / row["mask"]).size == (150, 90)


def test_an_unreadable_file_is_named_at_the_end_and_the_others_are_done(
    finished: Any, pictures: Path, meds: Callable[..., Finished]
) -> None:
    (pictures / "weave" / "00a.png").write_bytes(b"no image")
    out = finished.root / "out"
    done = meds("predict", finished.runs / "tiny", pictures / "weave", "--output", out, "--no-heatmaps")
    assert done.code == 2
    assert "00a.png: not an image, or of an unknown format.\n" in done.err
    assert "1 of 9 images could not be read" in done.said
    assert "Traceback" not in done.err
    assert len(rows(out)) == 8
    assert not (out / "heatmaps").exists()


def test_a_file_that_the_data_set_refuses_is_named_at_the_end(
    finished: Any, pictures: Path, meds: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Dataset.read_file

    def refusing(self: Any, path: Path) -> Any:
        if path.name == "refused.png":
            raise DataError(f"{path}: it has no second channel.")
        return read(self, path)

    monkeypatch.setattr(Dataset, "read_file", refusing)
    shutil.copy(next((pictures / "weave").glob("*.png")), pictures / "weave" / "refused.png")
    out = finished.root / "out"
    done = meds("predict", finished.runs / "tiny", pictures / "weave", "--output", out, "--no-heatmaps")
    assert done.code == 2
    assert "refused.png: it has no second channel.\n" in done.err
    assert len(rows(out)) == 8


def test_globs_json_lines_and_images_of_the_same_name(
    finished: Any, pictures: Path, meds: Callable[..., Finished]
) -> None:
    shutil.copytree(pictures, finished.root / "more")
    first = sorted((pictures / "weave").glob("*.png"))[0].name
    out = finished.root / "out"
    pattern = finished.root / "*" / "weave" / first
    done = meds("predict", finished.runs / "tiny", pattern, "--output", out, "--json")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert len(lines) == 2
    assert len({line["heatmap"] for line in lines}) == 2
    assert lines[0]["score"] == lines[1]["score"]


def test_the_folder_in_which_one_stands_names_the_class(
    finished: Any, pictures: Path, meds: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures / "weave")
    done = meds(
        "predict", finished.runs / "tiny", sorted(Path().glob("*.png"))[0], "-o", finished.root / "out", "--json"
    )
    assert (done.code, json.loads(done.out)["class"]) == (0, "weave")
    shutil.copytree(pictures / "weave", pictures / "new")
    other = sorted(Path("../new").glob("*.png"))[0]
    assert "give --class" in meds("predict", finished.runs / "tiny", other, "-o", finished.root / "other").said


def test_thresholds_can_be_chosen_again(finished: Any, pictures: Path, meds: Callable[..., Finished]) -> None:
    out = finished.root / "out"
    base = ["predict", finished.runs / "tiny", pictures, "--output", out, "--no-heatmaps"]
    meds(*base, "--threshold", "0")
    assert {row["decision"] for row in rows(out)} == {"anomalous"}
    meds(*base, "--false-alarm-rate", "0.5")
    half = [float(row["threshold"]) for row in rows(out)]
    meds(*base)
    assert all(a < float(row["threshold"]) for a, row in zip(half, rows(out), strict=True))
    done = meds(*base, "--false-alarm-rate", "2")
    assert (done.code, "lies between 0 and 1" in done.err) == (2, True)


def test_masks_follow_another_false_alarm_rate(finished: Any, pictures: Path, meds: Callable[..., Finished]) -> None:
    marked = []
    for number, more in enumerate([(), ("--false-alarm-rate", "0.9")]):
        out = finished.root / f"out{number}"
        assert meds("predict", finished.runs / "tiny", pictures / "weave", "--output", out, *more).code == 0
        marked.append([(np.array(Image.open(out / row["mask"])) > 0).mean() for row in rows(out)])
    usual, more_alarms = marked
    assert all(a <= b for a, b in zip(usual, more_alarms, strict=True))
    assert sum(more_alarms) > sum(usual)


def test_its_own_pictures_are_no_images(finished: Any, pictures: Path, meds: Callable[..., Finished]) -> None:
    out = pictures / "weave" / "predictions"
    for given in (pictures / "weave", pictures / "weave", pictures / "weave" / "**" / "*.png"):
        assert meds("predict", finished.runs / "tiny", given, "--output", out).code == 0
        assert len(rows(out)) == 8
    drawn = next((out / "heatmaps").iterdir())
    assert meds("predict", finished.runs / "tiny", drawn, "--class", "weave", "--output", finished.root / "o").code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{root}/nothing"], "nothing: there is no such file."),
        (["{root}/**x/*.png"], "**x/*.png: this names no images ("),
        (["l" * 5000], "this names no images ("),
        (["{root}/pictures/weave/*.jpg"], "No images were found in"),
        (
            ["{root}/pictures", "--threshold", "1", "--false-alarm-rate", "0.1"],
            "both set the threshold; give one of them",
        ),
        (["{root}/pictures", "--threshold", "nan"], "A threshold is a score, and nan is none; give a finite number."),
        (["{root}/pictures", "--class", "weav"], "--class weav: the run knows discs, weave"),
        (["{root}/loose.png"], "the run knows 2 classes (discs, weave) and no folder of this path"),
        (["a\rb.png"], r"a\rb.png: the name holds a carriage return, which no table can hold; rename it."),
        ([os.fsdecode(b"Pr\xfcfung.png")], r"Pr\xfcfung.png: the name is not text in UTF-8"),
    ],
)
def test_mistakes(
    finished: Any, pictures: Path, meds: Callable[..., Finished], arguments: list[str], sentence: str
) -> None:
    shutil.copy(next((pictures / "weave").glob("*.png")), finished.root / "loose.png")
    texts = [text.format(root=finished.root) for text in arguments]
    done = meds("predict", finished.runs / "tiny", *texts, "--output", finished.root / "out")
    assert done.code == 2
    assert sentence in done.said
    assert "Traceback" not in done.err
    assert not (finished.root / "out").exists()


def test_missing_files_are_named_and_the_others_scored(
    finished: Any, pictures: Path, meds: Callable[..., Finished]
) -> None:
    out = finished.root / "out"
    done = meds("predict", finished.runs / "tiny", "nowhere.png", pictures, "--output", out)
    assert (done.code, len(rows(out))) == (2, 16)
    assert "nowhere.png: there is no such file. 1 of 17 images could not be read." in done.said


def test_names_of_any_length_are_drawn(finished: Any, pictures: Path, meds: Callable[..., Finished]) -> None:
    image = next((pictures / "weave").glob("*.png"))
    names = ["ü" * 123 + "xx.png", "ü" * 123 + "xy.png"]
    for name in names:
        shutil.copy(image, pictures / "weave" / name)
    out = finished.root / "out"
    done = meds("predict", finished.runs / "tiny", *(pictures / "weave" / name for name in names), "--output", out)
    assert done.code == 0, done.said
    assert len({row["heatmap"] for row in rows(out)}) == len(list((out / "heatmaps").glob("*.png"))) == 2


def test_a_line_break_in_a_name_takes_no_line(finished: Any, pictures: Path, meds: Callable[..., Finished]) -> None:
    folder = finished.root / "line\nbreak"
    folder.mkdir()
    shutil.copy(next((pictures / "weave").glob("*.png")), folder / "a\nb.png")
    (folder / "c\nd.png").write_bytes(b"nothing")
    done = meds("predict", finished.runs / "tiny", folder, folder / "e\nf.png", "--class", "weave", "-o", folder / "o")
    assert done.code == 2
    lines = (done.out + done.err).splitlines()
    assert next(line for line in lines if r"line\nbreak/a\nb.png" in line).split()[0] in ("normal", "anomalous")
    assert any(line.endswith(r"line\nbreak/c\nd.png: not an image, or of an unknown format.") for line in lines)
    assert any(line.endswith(r"line\nbreak/e\nf.png: there is no such file.") for line in lines)
    assert any(rf"Written to {finished.root}/line\nbreak/o: " in line for line in lines)
    assert rows(folder / "o")[0]["path"] == str(folder / "a\nb.png")


def test_a_score_that_is_no_number_is_no_decision(
    finished: Any, pictures: Path, meds: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(_: Predictor, images: Any, __: Any) -> list[Prediction]:
        return [Prediction(float("nan"), 1.0, np.zeros((1, 1), dtype=np.float32)) for _ in images]

    monkeypatch.setattr(Predictor, "predict", damaged)
    done = meds("predict", finished.runs / "tiny", pictures, "--output", finished.root / "out")
    assert (done.code, ".png: the detector's score for it is nan" in done.said) == (2, True), done.said
    assert not rows(finished.root / "out")


@pytest.mark.parametrize("table", ["predictions.csv", "predictions.jsonl"])
def test_a_full_disk_is_said(finished: Any, pictures: Path, meds: Callable[..., Finished], table: str) -> None:
    (finished.root / "out").mkdir()
    (finished.root / "out" / table).symlink_to("/dev/full")
    done = meds("predict", finished.runs / "tiny", pictures, "--output", finished.root / "out")
    assert (done.code, f"The disk that holds {finished.root / 'out'} is full" in done.said) == (2, True), done.said


def test_a_folder_that_is_no_finished_run(project: Any, meds: Callable[..., Finished]) -> None:
    done = meds("predict", project.root, "x.png")
    assert (done.code, "is not a run directory" in done.said) == (2, True)
    done = meds("predict", "line.onnx", "x.png")
    assert (done.code, "line.onnx: there is no such file or folder." in done.said) == (2, True)


@pytest.mark.parametrize(
    ("score", "threshold", "anomalous"),
    [
        (0.4241305, 0.42413044, False),
        (0.42415, 0.42413044, True),
        (-1.000001, -1.0, False),
        (0.1, 0.0, True),
        (np.nan, 1, True),
    ],
)
def test_rounding_makes_no_image_anomalous(score: float, threshold: float, anomalous: bool) -> None:
    assert Prediction(score, threshold, np.zeros((1, 1), dtype=np.float32)).anomalous == anomalous


def test_images_of_12_bits_are_read_as_in_training(
    project: Any, tiny_spec: dict[str, Any], meds: Callable[..., Finished]
) -> None:
    folder = project.root / "camera"
    folder.mkdir()
    for number in range(6):
        values = np.random.default_rng(number).integers(0, 4096, (64, 64)).astype(np.uint16)
        Image.fromarray(values).save(folder / f"{number}.png")
    stages = [{"type": "fit", "iterations": 2, "batch_size": 4}, tiny_spec["stages"][-1]]
    spec = {**tiny_spec, "noise": None, "dataset": {"type": "folder", "path": str(folder)}, "stages": stages}
    project.run_well(spec=spec)
    dark = {row["path"]: row["score"] for row in project.rows("predictions.csv")}
    project.run_well(spec={**spec, "dataset": {**spec["dataset"], "bits": 12}})
    assert project.computed() == ["fit", "evaluate"] * 2
    own = {row["path"]: row["score"] for row in project.rows("predictions.csv")}
    assert all(own[path] != score for path, score in dark.items())
    assert meds("predict", project.file(""), folder, "-o", project.root / "out").code == 0
    for row in rows(project.root / "out"):
        assert float(row["score"]) == pytest.approx(float(own[row["path"]]), rel=1e-5)
    file = project.root / "camera.pt2"
    assert meds("export", project.file(""), "--format", "torch", "-o", file).code == 0
    assert meds("predict", file, folder, "-o", project.root / "exported").code == 0
    for row in rows(project.root / "exported"):
        assert float(row["score"]) == pytest.approx(float(own[row["path"]]), rel=0.02)
