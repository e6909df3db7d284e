"""The dataset real-iad: lists, views, noisy training images, and labels that are never taken from the path."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from meds.cli.results import show_noise
from meds.core.contamination import without_noise
from meds.core.data import scan
from meds.core.errors import DataError
from meds.plugins.datasets.real_iad import RealIadDataset, RealIadOptions


def put(path: Path) -> None:
    """An image that differs from those of other names, because equal contents count as one image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(zlib.crc32(path.name.encode())).integers(0, 256, (6, 8))
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=100)


def entry(place: str, kind: str, mask: str | None = None) -> dict[str, Any]:
    return {"category": "audiojack", "anomaly_class": kind, "image_path": place, "mask_path": mask}


OK1, OK2 = "OK/S0001/audiojack_0001_OK_C1_1.jpg", "OK/S0001/audiojack_0001_OK_C2_1.jpg"
BAD = "NG/AK/S0002/audiojack_0002_NG_AK_C1_1.jpg"
FINE_VIEW = "NG/AK/S0002/audiojack_0002_NG_AK_C2_1.jpg"
NOISE = "NG/BX/S0003/audiojack_0003_NG_BX_C1_1.jpg"


def mask_of(place: str) -> str:
    return place.replace(".jpg", "_mask.png")


@pytest.fixture
def content() -> dict[str, Any]:
    return {
        "meta": {"prefix": "audiojack/", "normal_class": "OK"},
        "train": [entry(OK2, "OK"), entry(OK1, "OK"), entry(NOISE, "BX", mask_of(NOISE)), entry(FINE_VIEW, "OK")],
        "test": [entry(BAD, "AK", mask_of(BAD)), entry(FINE_VIEW, "AK"), entry(OK1, "OK", mask_of(BAD))],
    }


@pytest.fixture
def root(tmp_path: Path, content: dict[str, Any]) -> Path:
    for place in (OK1, OK2, BAD, FINE_VIEW, NOISE, mask_of(BAD), mask_of(NOISE)):
        put(tmp_path / "realiad_256" / "audiojack" / place)
    write(tmp_path, content)
    return tmp_path


def write(root: Path, content: Any, folder: str = "realiad_jsons") -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (root / folder / "audiojack.json").write_text(text)


def read(root: Path, **options):
    return RealIadDataset(RealIadOptions(path=root, **options)).records()


def names(records) -> list[tuple[str, str, int, str, bool]]:
    return [(Path(r.path).name, r.split, r.label, r.defect, r.mask is not None) for r in records]


def test_labels_come_from_the_list(root: Path) -> None:
    found = names(read(root))
    assert ("audiojack_0002_NG_AK_C2_1.jpg", "test", 0, "good", False) in found, "a fine view of a defective object"
    assert ("audiojack_0002_NG_AK_C1_1.jpg", "test", 1, "AK", True) in found
    assert ("audiojack_0001_OK_C1_1.jpg", "test", 0, "good", False) in found, "the normal class outweighs a mask"
    assert [row[1] for row in found] == ["train"] * 4 + ["test"] * 3


def test_noisy_training_images_count_as_contamination(root: Path) -> None:
    result = without_noise(read(root))
    assert [Path(r.path).name for r, bad in zip(result.train, result.injected, strict=True) if bad] == [
        Path(NOISE).name
    ]
    assert result.report.classes["audiojack"].already_present == 1


def test_reports_know_the_contamination_and_training_does_not(
    root: Path, content: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    data = scan(RealIadDataset(RealIadOptions(path=root)), None)
    injected = [row for row in data.rows() if row["injected"] == "1"]
    assert [(Path(row["path"]).name, row["split"], row["defect"]) for row in injected] == [
        (Path(NOISE).name, "train", "BX")
    ]
    show_noise(data.noise)
    assert "audiojack: 1 defect among 3 normal training images (33.3 % of the normals, 25.0 % of all)" in " ".join(
        capsys.readouterr().out.split()
    )
    for item in content["train"]:
        item["mask_path"] = None
    write(root, content)
    unknown = scan(RealIadDataset(RealIadOptions(path=root)), None)
    assert not any(sample.injected for sample in unknown.train)
    assert unknown.training_fingerprint == data.training_fingerprint


def test_images_in_both_splits_are_reported(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = scan(RealIadDataset(RealIadOptions(path=root)), None).noise
    assert noise["classes"]["audiojack"]["in_both_splits"] == noise["total"]["in_both_splits"] == 2
    show_noise(noise)
    assert "Test images that are training images too: 2" in capsys.readouterr().out


def test_skipped_images_and_masks_are_listed(root: Path) -> None:
    folder = root / "realiad_256" / "audiojack"
    (folder / OK2).unlink()
    (folder / mask_of(BAD)).unlink()
    with pytest.raises(DataError, match=r"there is no file .*; complete the copy or set `dataset.unreadable: skip`"):
        read(root)
    data = scan(RealIadDataset(RealIadOptions(path=root, unreadable="skip")), None)
    assert {Path(path).name for path in data.unreadable} == {Path(OK2).name, Path(BAD).name}
    assert len(data.samples()) == 5


@pytest.mark.parametrize(
    "folder",
    [
        "realiad_jsons_fuiad_0.1",
        "realiad_jsons_fuiad_0.1/realiad_jsons_fuiad_0.1",
        "realiad_jsons/realiad_jsons_fuiad_0.1",
    ],
)
def test_lists_are_found_however_they_were_unpacked(root: Path, content: dict[str, Any], folder: str) -> None:
    before = read(root)
    write(root, {**content, "train": content["train"][:2]}, folder)
    assert [r for r in read(root, lists="realiad_jsons_fuiad_0.1") if r.split == "test"] == before[4:]
    assert len(read(root, lists="realiad_jsons_fuiad_0.1")) == 5
    assert read(root) == before


def test_the_usual_download_holds_the_default_lists_one_folder_deeper(root: Path, content: dict[str, Any]) -> None:
    before = read(root)
    (root / "realiad_jsons" / "audiojack.json").unlink()
    write(root, content, "realiad_jsons/realiad_jsons")
    assert read(root) == before


def test_views(root: Path) -> None:
    assert {name[-7:-6] for name, *_ in names(read(root, views=["C2"]))} == {"2"}
    with pytest.raises(DataError, match=r"no image has one of the views \['C5'\]"):
        read(root, views=["C5"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("{\n oops", r"audiojack.json:2: the list is no JSON"),
        ([], r"audiojack.json: the list needs 'meta' with 'prefix' and 'normal_class', 'train' and 'test'"),
        ({"test": [{"image_path": 3}]}, r"entry 0 of 'test' needs texts for 'image_path' and 'anomaly_class'"),
        ({"test": ["text"]}, r"entry 0 of 'test' is no object with 'image_path', 'anomaly_class' and 'mask_path'"),
        ({"test": [entry(OK1, "AK") | {"mask_path": 3}]}, r"entry 0 of 'test' needs a text or null for 'mask_path'"),
        ({"test": [entry("gone.jpg", "OK")]}, r"entry 0 of 'test': there is no file .*gone.jpg"),
        ({"test": [entry(OK1, "AK", "gone.png")]}, r"entry 0 of 'test': there is no file .*gone.png"),
    ],
)
def test_mistakes_in_a_list(root: Path, content: dict[str, Any], change: Any, sentence: str) -> None:
    write(root, content | change if isinstance(change, dict) else change)
    with pytest.raises(DataError, match=sentence):
        read(root)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lists": "realiad_jsons_sv"}, "realiad_jsons_sv: there is no such folder; check `dataset.path` and"),
        ({"images": "realiad_raw"}, "holds no image folder realiad_raw; check `dataset.path`"),
        ({"classes": ["bottle"]}, r"there is no list 'bottle.json'; `dataset.classes` can name: audiojack"),
    ],
)
def test_folders_that_are_not_there(root: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        read(root, **options)


def test_an_empty_folder_of_lists(root: Path) -> None:
    (root / "realiad_jsons" / "audiojack.json").unlink()
    with pytest.raises(DataError, match=r"realiad_jsons: holds no JSON list"):
        read(root)


def test_a_run_ranks_and_counts_the_contamination_of_the_lists(
    root: Path, content: dict[str, Any], project: Any, tiny_spec: dict[str, Any]
) -> None:
    fine = [f"OK/S{i:04}/audiojack_{i:04}_OK_C1_1.jpg" for i in range(10, 17)]
    for place in fine:
        put(root / "realiad_256" / "audiojack" / place)
    write(root, {**content, "train": content["train"][2:3] + [entry(place, "OK") for place in fine]})
    dataset = {"type": "real-iad", "path": str(root)}
    done = project.run_well(spec={**tiny_spec, "dataset": dataset, "noise": None})
    assert "audiojack: 1 defect among 7 normal training images" in done.said
    ranking = project.rows("ranking.csv")
    assert [Path(row["path"]).name for row in ranking if row["injected"] == "1"] == [Path(NOISE).name]
    place = next(i for i, row in enumerate(ranking, start=1) if row["injected"] == "1")
    figures = project.json("metrics.json")
    assert figures["ranking"]["classes"]["audiojack"]["inspection_depth"] == pytest.approx(place / 8)
    assert figures["noise"]["classes"]["audiojack"]["already_present"] == 1
    assert {row["injected_selected"] for row in project.rows("selection.csv")} <= {"0", "1"}
