"""The noise protocol list: exactly the images that a file names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from meds.cli.results import show_noise
from meds.core.contamination import ClassNoise, NoiseReport
from meds.core.data import scan
from meds.core.dataset import Record
from meds.core.errors import DataError, SpecError
from meds.core.hookspecs import hookimpl
from meds.core.registry import Options, Plugin, load_registry
from meds.core.spec import resolve_spec
from meds.core.spec_source import parse_spec
from meds.plugins.datasets.mvtec import MvtecDataset, MvtecOptions
from meds.plugins.noise_list import ListOptions, ListProtocol


def record(name: str, split: str, defect: str, stem: str) -> Record:
    return Record(f"/data/{name}/anywhere/{stem}.png", name, split, int(defect != "good"), defect)


RECORDS = [
    *(record("bottle", "train", "good", f"00{i}") for i in range(4)),
    *(record("bottle", "test", "good", f"00{i}") for i in range(2)),
    *(record("bottle", "test", "broken", f"00{i}") for i in range(3)),
    *(record("bottle", "test", "dirty", f"00{i}") for i in range(2)),
]


def write(folder: Path, *rows: str, header: str = "filename,clsname") -> Path:
    path = folder / "list.csv"
    path.write_text("\n".join([header, *(f"{row},x" for row in rows), ""]))
    return path


def protocol(path: Path, overlap: bool = True) -> ListProtocol:
    return ListProtocol(ListOptions(list=path, overlap=overlap))


ROWS = (
    "bottle/test/dirty/001.png",
    "bottle/train/good/003.png",
    "bottle/train/good/000.png",
    "cable/train/good/000.png",
)


@pytest.mark.parametrize("overlap", [True, False])
def test_the_training_set_is_the_list(tmp_path: Path, overlap: bool) -> None:
    result = protocol(write(tmp_path, *ROWS), overlap).apply(RECORDS)
    assert [(r.defect, Path(r.path).stem) for r in result.train] == [("good", "000"), ("good", "003"), ("dirty", "001")]
    assert result.injected == (False, False, True)
    assert {r.split for r in result.train} == {"train"}
    assert len(result.test) == (7 if overlap else 6)
    noise = result.report.classes["bottle"]
    assert (noise.normals, noise.injected, noise.dropped_normals, noise.ratio_of_normal) == (2, 1, 2, 0.5)
    assert result.report.as_dict()["ignored"] == {"cable": 1}
    assert result.report.as_dict()["overlap"] is overlap


def test_an_image_may_be_listed_twice(tmp_path: Path) -> None:
    result = protocol(write(tmp_path, *ROWS, ROWS[0])).apply(RECORDS)
    assert result.injected == (False, False, True, True)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ((*ROWS, "bottle/test/dirty/009.png"), r"list.csv:6: the data set has no image 'bottle/test/dirty/009.png'"),
        (("bottle/009.png",), r"list.csv:2: 'bottle/009.png' is no path of the form <class>/train/good/<file>"),
        (
            (*(row.replace("bottle/train", "Bottle/train") for row in ROWS),),
            r"list.csv: names no training image of the class 'bottle' \(but of 'Bottle': capitals count\), only test",
        ),
        (ROWS[3:], r"list.csv: names no image of the class 'bottle'; leave it out with `dataset.classes`"),
    ],
)
def test_mistakes_in_the_list(tmp_path: Path, rows: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        protocol(write(tmp_path, *rows)).apply(RECORDS)


def test_a_path_that_two_images_share_is_refused(tmp_path: Path) -> None:
    twice = [*RECORDS, Record("/data/bottle/elsewhere/003.png", "bottle", "train", 0, "good")]
    with pytest.raises(DataError, match=r"list.csv:3: the data set has 2 images that 'bottle/train/good/003.png' may"):
        protocol(write(tmp_path, *ROWS)).apply(twice)


def test_a_normal_test_image_is_added_but_is_no_defect(tmp_path: Path) -> None:
    result = protocol(write(tmp_path, *ROWS[:2], "bottle/test/good/001.png")).apply(RECORDS)
    assert [r.defect for r in result.train] == ["good", "good", "dirty"]
    assert result.injected == (False, False, True)


def test_longer_paths_other_columns_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path, "./mvtec/bottle/test/dirty/001.png", "bottle/train/good/000.png", header="filename,class")
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert protocol(path).apply(RECORDS).injected == (False, True)


@pytest.mark.parametrize("overlap", [True, False])
def test_the_report_of_a_run_says_what_is_in_both_splits(
    tmp_path: Path, overlap: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    for value, record in enumerate(RECORDS):
        place = tmp_path / "mvtec" / "bottle" / record.split / str(record.defect) / Path(record.path).name
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 8), value, np.uint8)).save(place)
    dataset = MvtecDataset(MvtecOptions(path=tmp_path / "mvtec"))
    noise = scan(dataset, protocol(write(tmp_path, *ROWS), overlap)).noise
    assert noise["total"]["in_both_splits"] == noise["classes"]["bottle"]["in_both_splits"] == int(overlap)
    show_noise(noise)
    said = " ".join(capsys.readouterr().out.split())
    assert "bottle: 1 defect among 2 normal training images (50.0 % of the normals, 33.3 % of all)" in said
    assert ("Test images that are training images too: 1" in said) == overlap
    assert "Normal training images that are left out: 2" in said
    assert "Images of classes that are not used, in the noise list: 1 (cable)" in said


def test_a_list_without_normal_images_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"injected": 3, "already_present": 0, "normals": 0, "ratio_of_normal": None, "ratio_of_total": 1.0}
    show_noise({"classes": {"bottle": row}, "total": {"in_both_splits": 0, "dropped_normals": 0}})
    said = " ".join(capsys.readouterr().out.split())
    assert said == "bottle: 3 defects among 0 normal training images (– % of the normals, 100.0 % of all)"


@pytest.mark.parametrize(
    ("protocol_name", "injected", "told"), [("list", (1, 0), True), ("list", (0, 0), True), (None, (0, 0), False)]
)
def test_classes_that_got_no_defect_are_named(
    protocol_name: str | None, injected: tuple[int, int], told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    report = NoiseReport(
        {name: ClassNoise(8, 4, injected=count) for name, count in zip(("bottle", "tile"), injected, strict=True)},
        protocol=protocol_name,
    ).as_dict()
    report["total"]["in_both_splits"] = 0
    show_noise(report)
    names = "tile" if injected[0] else "bottle, tile"
    said = " ".join(capsys.readouterr().out.split())
    assert (f"No known defect among the training images of: {names}" in said) == told


def test_files_that_are_no_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"list.csv:1: has no column 'filename'"):
        protocol(write(tmp_path, header="path,class")).apply(RECORDS)
    with pytest.raises(DataError, match=r"nothing.csv: the noise list cannot be read .*; check `noise.list`"):
        protocol(tmp_path / "nothing.csv").apply(RECORDS)


SPEC = """
name: a
dataset: {type: synthetic}
noise: {NOISE}
backbone: {type: efficientnet-lite0, pretrained: false}
student: {type: rd}
stages: [{type: memory}, {type: evaluate}]
"""


def test_a_list_in_a_spec_chooses_this_protocol() -> None:
    registry = load_registry()
    spec = resolve_spec(parse_spec(SPEC.replace("NOISE", "list: some.csv"), "spec.yaml"), registry)
    assert spec.noise is not None
    assert spec.noise.dump() == {"type": "list", "list": "some.csv", "overlap": True}
    assert resolve_spec(parse_spec(spec.to_yaml(), "spec.yaml"), registry).noise == spec.noise


@pytest.mark.parametrize(
    ("noise", "sentence"),
    [
        ("list: a.csv, ratio: 0.1", "spec.yaml:4: `noise`: `list` and `ratio` exclude each other, because"),
        ("list: a.csv, ratio: 0.1, seed: 0, of: normal", "`list` and `ratio`, `of`, `seed` exclude each other"),
        ("list: a.csv, overlp: true", "unknown key 'overlp' in `noise`; did you mean 'overlap'"),
    ],
)
def test_a_list_and_a_draw_exclude_each_other(noise: str, sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        resolve_spec(parse_spec(SPEC.replace("NOISE", noise), "spec.yaml"), load_registry())
    assert sentence in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


class Counted:
    """A module with two noise protocols that are meant by keys, one of them by a key that both have."""

    @hookimpl
    def meds_noise_protocols(self) -> list[Plugin]:
        keys = {"counted": "count", "doubled": "count", "listed-too": "names"}
        return [Plugin(name, CountOptions, "nowhere:X", "For a test.", without_type=key) for name, key in keys.items()]


class CountOptions(Options):
    count: int = 0
    names: int = 0


@pytest.mark.parametrize(
    ("block", "meant"),
    [
        ({"type": "anything"}, "anything"),
        ({"ratio": 0.1}, "inject"),
        ({}, "inject"),
        ({"list": "a.csv"}, "list"),
        ({"names": 3}, "listed-too"),
        ({"count": 3}, None),
    ],
)
def test_a_block_without_a_type_means_the_protocol_that_claims_its_key(block: Any, meant: str | None) -> None:
    registry = load_registry()
    registry.register_module(Counted(), "somebody", "1.0")
    assert not registry.broken
    assert registry.meant("noise protocol", block) == meant


def test_a_block_that_two_protocols_claim_needs_a_type() -> None:
    registry = load_registry()
    registry.register_module(Counted(), "somebody", "1.0")
    with pytest.raises(SpecError, match="`noise` needs a `type:`"):
        resolve_spec(parse_spec(SPEC.replace("NOISE", "count: 3"), "spec.yaml"), registry)


def test_paths_as_windows_writes_them(tmp_path: Path) -> None:
    result = protocol(write(tmp_path, "bottle\\train\\good\\003.png", "bottle/train/good/000.png")).apply(RECORDS)
    assert [Path(r.path).stem for r in result.train] == ["000", "003"]


def test_a_list_with_other_separators_says_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only 'filename;clsname'; the columns are separated by commas"):
        protocol(write(tmp_path, *ROWS, header="filename;clsname")).apply(RECORDS)


def test_a_listed_image_that_cannot_be_read_is_told(project: Any, tiny_spec: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "set" / "weave" / "train" / "good"
    folder.mkdir(parents=True)
    for number in range(4):
        (folder / f"{number}.png").write_bytes(b"no image")
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number + 4}.png")
    (tmp_path / "list.csv").write_text("filename\nweave/train/good/4.png\nweave/train/good/0.png\n")
    dataset = {"type": "mvtec", "path": str(tmp_path / "set"), "unreadable": "skip"}
    done = project.run(spec={**tiny_spec, "dataset": dataset, "noise": {"list": str(tmp_path / "list.csv")}})
    assert done.code == 2
    assert f"Images left out because they cannot be read: 4, such as {folder / '0.png'}." in done.said
