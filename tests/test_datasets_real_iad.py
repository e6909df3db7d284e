"""The dataset real-iad: lists, views, noisy training images, and labels that are never taken from the path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from meds.core.contamination import without_noise
from meds.core.errors import DataError
from meds.plugins.datasets.real_iad import RealIadDataset, RealIadOptions


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8), 200, np.uint8)).save(path)


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


def test_views_and_nested_folders(root: Path, content: dict[str, Any]) -> None:
    assert {name[-7:-6] for name, *_ in names(read(root, views=["C2"]))} == {"2"}
    write(root, content, "realiad_jsons_fuiad_0.1/realiad_jsons_fuiad_0.1")
    assert names(read(root, lists="realiad_jsons_fuiad_0.1")) == names(read(root))
    with pytest.raises(DataError, match=r"no image has one of the views \['C5'\]"):
        read(root, views=["C5"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("{\n oops", r"audiojack.json:2: the list is no JSON"),
        ([], r"audiojack.json: the list needs 'meta' with 'prefix' and 'normal_class', 'train' and 'test'"),
        ({"test": [{"image_path": 3}]}, r"entry 0 of 'test' needs texts for 'image_path' and 'anomaly_class'"),
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
