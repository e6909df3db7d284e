"""`meds export`: the file gives the run's scores and maps for images of any size, or it is not written."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Finished
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from meds.core.backbone import Preprocessing, normalise
from meds.core.finished_run import FinishedRun
from meds.core.images import resize_and_crop
from meds.core.predict import Predictor
from meds.core.runtime import Runtime
from meds.export import check
from meds.export.exported import open_exported
from meds.export.formats import SUFFIXES
from meds.export.preprocess import preprocess

NEEDED = {"torch": (), "onnx": ("onnxscript", "onnxruntime"), "openvino": ("onnxscript", "openvino")}


def needed(kind: str) -> None:
    for name in NEEDED[kind]:
        pytest.importorskip(name, reason=f"the extra `export` with {name} is not installed")


@settings(max_examples=25, deadline=None)
@given(st.integers(8, 90), st.integers(8, 90), st.integers(0, 9))
def test_preprocessing_is_pillow_s(height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    how = Preprocessing(40, 32)
    expected = normalise(resize_and_crop(image, how), how)
    found = preprocess(torch.from_numpy(image)[None], how)[0].numpy()
    levels = np.abs(found - expected) * np.array(how.std, dtype=np.float32)[:, None, None] * 255
    # Pillow 13 begins with the height of an image that loses far more of its height than of its width.
    tall = height > how.resize and height - how.resize >= 2 * (width - how.resize)
    assert levels.max() < (2.01 if tall else 0.01)


@pytest.mark.parametrize("kind", ["torch", "onnx", "openvino"])
def test_a_file_of_a_run_in_bf16_computes_in_float32(
    finished: Any, tiny_spec: dict[str, Any], meds: Callable[..., Finished], kind: str
) -> None:
    needed(kind)
    finished.run_well(spec=tiny_spec | {"precision": "bf16"})
    run, path = finished.runs / "tiny", finished.root / f"d{SUFFIXES[kind]}"
    done = meds("export", run, "--format", kind, "--class", "weave", "--output", path, "--tolerance", "0.2")
    assert "8 images: scores differ by at most" in done.said, done.said
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    exact = FinishedRun(run)
    exact.pipeline.runtime = Runtime("cpu", "fp32", 1)
    own = Predictor(exact).predict([image], ["weave"])[0]
    if path.exists():
        assert open_exported(path).predict([image], ["weave"])[0].score == pytest.approx(own.score, rel=5e-3)


@pytest.mark.parametrize("kind", ["torch", "onnx", "openvino"])
def test_a_file_gives_the_run_s_results(finished: Any, meds: Callable[..., Finished], kind: str) -> None:
    needed(kind)
    path = finished.root / f"detector{SUFFIXES[kind]}"
    run = finished.runs / "tiny"
    done = meds("export", run, "--format", kind, "--class", "weave", "--output", path)
    assert done.code == 0, done.said
    assert "8 images: scores differ by at most" in done.said
    assert "0 decisions differ" in done.said

    own, exported = Predictor(FinishedRun(run)), open_exported(path)
    for size in ((64, 64), (97, 140), (33, 50)):
        image = np.random.default_rng(size[0]).integers(0, 256, (*size, 3), dtype=np.uint8)
        (a,), (b,) = own.predict([image], ["weave"]), exported.predict([image], ["weave"])
        assert b.score == pytest.approx(a.score, rel=5e-3)
        np.testing.assert_allclose(b.map, a.map, rtol=0.02, atol=5e-3)
        assert b.threshold == a.threshold

    picture = finished.root / "picture.png"
    Image.fromarray(image).save(picture)
    for source, out in ((run, "a"), (path, "b")):
        done = meds("predict", source, picture, "--class", "weave", "--output", finished.root / out)
        assert done.code == 0, done.err
    tables = [list(csv.DictReader((finished.root / out / "predictions.csv").open())) for out in "ab"]
    assert [row["decision"] for row in tables[0]] == [row["decision"] for row in tables[1]]
    assert (finished.root / "b" / tables[1][0]["heatmap"]).is_file()
    exported.thresholds.set_false_alarm_rate(0.5)
    own.thresholds.set_false_alarm_rate(0.5)
    assert exported.thresholds.image["weave"] == pytest.approx(own.thresholds.image["weave"])


@pytest.mark.parametrize(
    ("student", "family"),
    [
        ({"type": "dinomaly", "depth": 2}, "vit"),
        ({"type": "inp-former", "depth": 2}, "vit"),
        ({"type": "dinomaly", "depth": 2, "width": 32}, "cnn"),
        ({"type": "hvq", "width": 32, "heads": 2, "feedforward": 32, "codes": 16, "levels": 2}, "cnn"),
    ],
)
def test_every_student_can_be_exported(
    project: Any, tiny_spec: dict[str, Any], meds: Callable[..., Finished], student: dict[str, Any], family: str
) -> None:
    tiny_spec["dataset"] |= {"classes": ["weave"]}
    tiny_spec["student"] = student
    if family == "vit":
        tiny_spec["backbone"] = {"type": "timm", "model": "vit_tiny_patch16_224", "pretrained": False, "image_size": 64}
    tiny_spec["stages"] = [{"type": "fit", "iterations": 2, "batch_size": 4}, {"type": "evaluate", "map_size": 64}]
    project.run_well(spec=tiny_spec)
    done = meds("export", project.runs / "tiny", "--format", "torch", "--output", project.root / "d.pt2")
    assert done.code == 0, done.said


def test_a_file_that_disagrees_is_removed_and_both_figures_are_shown(
    finished: Any, meds: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = finished.root / "d.pt2"
    real = check.Predictor.predict

    def shifted(self: Any, images: Any, classes: Any) -> Any:
        return [type(p)(p.score * 1.5, p.threshold, p.map) for p in real(self, images, classes)]

    monkeypatch.setattr(check.Predictor, "predict", shifted)
    done = meds("export", finished.runs / "tiny", "--format", "torch", "--class", "weave", "--output", path)
    assert done.code == 1
    assert "does not agree with the run and was removed" in done.said
    assert "run " in done.said
    assert "file " in done.said
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "The run knows 2 classes (discs, weave), and a file holds one: give --class"),
        (["--class", "nut"], "--class nut: the run knows discs, weave"),
        (["--class", "weave", "--output", "d.onnx"], "a file of the format torch ends in .pt2"),
    ],
)
def test_mistakes(finished: Any, meds: Callable[..., Finished], arguments: list[str], sentence: str) -> None:
    done = meds("export", finished.runs / "tiny", "--format", "torch", *arguments)
    assert (done.code, sentence in done.said) == (2, True), done.said


def test_a_memory_alone_cannot_be_exported(
    project: Any, tiny_spec: dict[str, Any], meds: Callable[..., Finished]
) -> None:
    tiny_spec["stages"] = [{"type": "memory"}, {"type": "evaluate", "map_size": 64}]
    project.run_well(spec=tiny_spec)
    done = meds("export", project.runs / "tiny", "--format", "torch", "--class", "weave")
    assert (done.code, "scores with a memory of training images, which cannot be exported" in done.said) == (2, True)


@pytest.mark.parametrize("name", ["notes.txt", "broken.pt2"])
def test_files_that_are_no_detector(tmp_path: Path, meds: Callable[..., Finished], name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    done = meds("predict", tmp_path / name, tmp_path / "a.png", "--output", tmp_path / "out")
    assert done.code == 2
    assert name in done.said
