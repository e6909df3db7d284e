"""`meds export`: the file gives the run's scores and maps for images of any size, or it is not written."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import torch
from conftest import Finished
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from meds.core.backbone import Preprocessing, normalise
from meds.core.calibration import calibrate
from meds.core.errors import UserError
from meds.core.finished_run import FinishedRun
from meds.core.images import resize_and_crop
from meds.core.predict import Prediction, Predictor
from meds.core.reporter import SilentReporter
from meds.export import check
from meds.export.calibration import file_calibration
from meds.export.checksum import add_checksum, checksum_holds
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


class Resized(torch.nn.Module):
    """The preprocessing alone, as a network."""

    how = Preprocessing(40, 32)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return preprocess(image, self.how)


def test_onnxruntime_and_openvino_resize_as_pillow_to_the_bit(tmp_path: Path) -> None:
    needed("onnx")
    needed("openvino")
    import onnxruntime
    import openvino

    height, width = torch.export.Dim("height", min=2), torch.export.Dim("width", min=2)
    example = torch.zeros((1, 53, 66, 3), dtype=torch.uint8)
    traced = torch.export.export(Resized(), (example,), dynamic_shapes={"image": {1: height, 2: width}}, strict=False)
    program: Any = torch.onnx.export(traced, dynamo=True, input_names=["image"], output_names=["x"], verbose=False)
    program.save(tmp_path / "resized.onnx", external_data=False)
    session = onnxruntime.InferenceSession(tmp_path / "resized.onnx", providers=["CPUExecutionProvider"])
    model = openvino.Core().compile_model(tmp_path / "resized.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    # Ratios like 4 : 7 and 5 : 7 put one value in ten halfway between two levels.
    for size in ((40, 40), (70, 70), (56, 56), (23, 71), (300, 300), (640, 1000)):
        image = np.random.default_rng(size[1]).integers(0, 256, (*size, 3), dtype=np.uint8)
        expected = normalise(resize_and_crop(image, Resized.how), Resized.how)
        for found in (session.run(None, {"image": image[None]})[0][0], np.asarray(model(image[None])["x"])[0]):
            levels = np.abs(found - expected) * np.array(Resized.how.std, dtype=np.float32)[:, None, None] * 255
            assert levels.max() < 0.01, size


def exact_calibration(run: Path, name: str, rate: float) -> dict[str, Any]:
    """A class's calibration in float32, image by image: the slow way."""
    exact = FinishedRun(run, precision="fp32")
    predictor, row = Predictor(exact), exact.metrics["calibration"][name]
    selected, stored = exact.evaluation.info["selected"], exact.evaluation.tensors("scores")
    scores, peaks, middles, weights = [], [], [], []
    images = zip(exact.data.train, selected, stored["unseen"].tolist(), stored["normal"].tolist(), strict=True)
    for sample, chosen, fresh, normal in images:
        if sample.record.class_name == name and (fresh and normal > 0 if row["held_out"] else chosen):
            weights.append(normal)
            found = predictor.predict([exact.pipeline.dataset.read_image(sample.record)], [name])[0]
            scores.append(found.score)
            peaks.append(found.map.max())
            middles.append(np.sort(found.map.ravel())[(found.map.size - 1) // 2])
    score, pixel = (
        calibrate(np.array(values), rate, row["held_out"], np.array(weights)).threshold for values in (scores, peaks)
    )
    likely = [middle for middle, weight in zip(middles, weights, strict=True) if weight >= 0.5]
    low = min(float(np.median(likely)), pixel)
    return {"scores": scores, "threshold": score, "pixel": pixel, "heatmap": (low, 2 * pixel - low)}


@pytest.mark.parametrize(("kind", "train"), [("torch", 30), ("onnx", 8), ("openvino", 8)])
def test_the_file_of_a_run_in_bf16_is_the_run_in_float32(
    project: Any, tiny_spec: dict[str, Any], meds: Callable[..., Finished], kind: str, train: int
) -> None:
    needed(kind)
    tiny_spec["dataset"] |= {"train": train}
    project.run_well(spec=tiny_spec | {"precision": "bf16"})
    run, path = project.runs / "tiny", project.root / f"d{SUFFIXES[kind]}"
    done = meds("export", run, "--format", kind, "--class", "weave", "--output", path)
    assert done.code == 0, done.said
    assert "The run itself computes in bf16, the file in float32, so the file has a threshold of its own" in done.said
    assert "of 8 decisions differ." in done.said or train > 8

    exported, own = open_exported(path), FinishedRun(run)
    assert own.metrics["calibration"]["weave"]["held_out"] == (train > 20)
    row, wanted = exported.thresholds.classes["weave"], exact_calibration(run, "weave", 0.01)
    np.testing.assert_allclose(row.images, wanted["scores"], rtol=1e-5)
    assert row.image == pytest.approx(wanted["threshold"], rel=1e-5)
    assert row.pixel == pytest.approx(wanted["pixel"], rel=1e-5)
    assert row.heatmap == pytest.approx(wanted["heatmap"], rel=1e-5)
    assert row.image != own.metrics["calibration"]["weave"]["threshold"]

    picture = project.root / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(picture)
    done = meds("predict", path, picture, "--output", project.root / "out", "--false-alarm-rate", "0.5")
    assert done.code == 0, done.err
    (told,) = csv.DictReader((project.root / "out" / "predictions.csv").open())
    assert float(told["threshold"]) == pytest.approx(exact_calibration(run, "weave", 0.5)["threshold"], rel=1e-5)


def test_the_images_at_either_threshold_are_not_compared(project: Any, tiny_spec: dict[str, Any]) -> None:
    tiny_spec["dataset"] |= {"classes": ["weave"], "train": 30}
    project.run_well(spec=tiny_spec | {"precision": "bf16"})
    exact = FinishedRun(project.runs / "tiny", precision="fp32")
    found = file_calibration(exact, "weave", SilentReporter())
    stored = exact.evaluation.tensors("scores")
    at_run = stored["train"].numpy() == np.float32(exact.metrics["calibration"]["weave"]["threshold"])
    at_file = found.positions[found.threshold.images == found.threshold.image]
    left_out = {exact.data.train[i].record.path for i in (*np.flatnonzero(at_run), *at_file)}
    assert left_out
    held = {s.record.path for s, fresh in zip(exact.data.train, stored["unseen"].tolist(), strict=True) if fresh}
    compared = {sample.record.path for sample in check.unseen_samples(exact, "weave", 999, found)}
    assert compared == {sample.record.path for sample in exact.data.test} | held - left_out


def test_scores_are_shares_of_each_side_s_own_threshold() -> None:
    class Read:
        record = type("Record", (), {"path": "a.png"})

    values = np.zeros((1, 1), dtype=np.float32)
    found = check.difference([Read()], [Prediction(0.5, 1.0, values)], [Prediction(0.5, 0.4, values)])  # type: ignore[list-item]
    assert found.worst.gap == pytest.approx(0.75)
    assert found.flipped == [found.worst]


def test_a_run_is_opened_in_its_own_precision_and_in_another(project: Any, tiny_spec: dict[str, Any]) -> None:
    project.run_well(spec=tiny_spec | {"precision": "bf16"})
    # `auto` may mean something else on the machine that opens the run.
    text = project.file("spec.yaml").read_text()
    project.file("spec.yaml").write_text(text.replace("precision: bf16", "precision: fp32"))
    run = FinishedRun(project.runs / "tiny")
    own = Predictor(run)
    image = run.pipeline.dataset.read_image(run.data.test[0].record)
    first = own.predict([image], ["weave"])[0].score
    other = Predictor(FinishedRun(project.runs / "tiny", precision="fp32")).predict([image], ["weave"])[0].score
    assert (run.made_in, run.pipeline.runtime.precision) == ("bf16", "bf16")
    assert other != first
    assert own.predict([image], ["weave"])[0].score == first


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


def test_a_test_image_with_the_threshold_s_content_is_not_compared(project: Any, tiny_spec: dict[str, Any]) -> None:
    tiny_spec["dataset"] |= {"classes": ["weave"], "train": 30}
    project.run_well(spec=tiny_spec | {"precision": "fp32"})
    exact = FinishedRun(project.runs / "tiny")
    found = file_calibration(exact, "weave", SilentReporter())
    (at, *_) = found.positions[found.threshold.images == found.threshold.image]
    twin = replace(exact.data.test[0], digest=exact.data.train[at].digest)
    exact.__dict__["data"] = replace(exact.data, test=(twin, *exact.data.test[1:]))
    compared = check.unseen_samples(exact, "weave", 999, found)
    assert set(exact.data.test) - set(compared) == {twin}


def test_a_file_that_disagrees_is_not_kept_and_both_figures_are_shown(
    finished: Any, meds: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = finished.root / "d.pt2"
    real = Predictor.predict

    def shifted(self: Any, images: Any, classes: Any) -> Any:
        return [type(p)(p.score * 1.5, p.threshold, p.map) for p in real(self, images, classes)]

    monkeypatch.setattr(Predictor, "predict", shifted)
    path.write_text("an earlier export")
    done = meds("export", finished.runs / "tiny", "--format", "torch", "--class", "weave", "--output", path)
    assert done.code == 1
    assert "does not agree with the run and is not kept" in done.said
    assert "run " in done.said
    assert "file " in done.said
    assert path.read_text() == "an earlier export"
    assert not list(finished.root.glob(".meds-export-*"))


def test_a_full_disk_keeps_the_earlier_file(
    finished: Any, meds: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = finished.root / "d.pt2"
    path.write_text("an earlier export")

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    done = meds("export", finished.runs / "tiny", "--format", "torch", "--class", "weave", "--output", path)
    assert (done.code, f"The disk that holds {path} is full" in done.said) == (2, True), done.said
    assert path.read_text() == "an earlier export"


@pytest.mark.parametrize("tolerance", ["nan", "-1", "inf"])
def test_a_tolerance_is_a_share(finished: Any, meds: Callable[..., Finished], tolerance: str) -> None:
    done = meds("export", finished.runs / "tiny", "--format", "torch", "--class", "weave", "--tolerance", tolerance)
    assert (done.code, f"--tolerance {tolerance}: give a share" in done.said) == (2, True), done.said


def test_a_damaged_file_is_refused(finished: Any, meds: Callable[..., Finished]) -> None:
    path = finished.root / "d.pt2"
    done = meds("export", finished.runs / "tiny", "--format", "torch", "--class", "weave", "--output", path)
    assert done.code == 0, done.said
    with zipfile.ZipFile(path) as parts:
        largest = max(parts.infolist(), key=lambda part: part.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + largest.file_size // 2] ^= 0x40
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=f"d.pt2 cannot be read: {largest.filename} in it is damaged; export it again"):
        open_exported(path)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_file_stays_readable_with_its_checksum(tmp_path: Path, suffix: str) -> None:
    path, weights = tmp_path / f"d{suffix}", tmp_path / "d.bin"
    weights.write_bytes(bytes(range(200)))
    model = onnx.ModelProto(producer_name="meds", metadata_props=[onnx.StringStringEntryProto(key="meds", value="x")])
    path.write_bytes(model.SerializeToString() if suffix == ".onnx" else b"<net><layer/></net>")
    assert not checksum_holds(path)
    add_checksum(path)
    assert checksum_holds(path)
    if suffix == ".onnx":
        assert [entry.key for entry in onnx.load(path).metadata_props] == ["meds", "meds.sha256"]
    else:
        assert [child.tag for child in ElementTree.parse(path).getroot()] == ["layer"]
    for file in (path, weights) if suffix == ".xml" else (path,):
        content = file.read_bytes()
        for place in range(len(content)):
            file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            assert not checksum_holds(path)
        file.write_bytes(content)
    path.write_bytes(path.read_bytes()[:30])
    assert not checksum_holds(path)


@pytest.mark.parametrize(
    ("kind", "suffix", "place"),
    [("onnx", ".onnx", 0.5), ("onnx", ".onnx", 1), ("openvino", ".xml", 0.5), ("openvino", ".bin", 0.5)],
)
def test_a_checksum_is_held_against_the_file(
    finished: Any, meds: Callable[..., Finished], kind: str, suffix: str, place: float
) -> None:
    needed(kind)
    path = finished.root / f"d{SUFFIXES[kind]}"
    done = meds("export", finished.runs / "tiny", "--format", kind, "--class", "weave", "--output", path)
    assert done.code == 0, done.said
    open_exported(path)
    content = bytearray(path.with_suffix(suffix).read_bytes())
    content[min(int(len(content) * place), len(content) - 8)] ^= 0x04
    path.with_suffix(suffix).write_bytes(bytes(content))
    with pytest.raises(UserError, match="cannot be read: it is damaged, or was not written by this version of meds"):
        open_exported(path)


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
