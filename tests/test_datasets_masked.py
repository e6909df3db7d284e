"""The dataset `masked`: labels from masks that lie beside their images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from meds.core.data import scan
from meds.core.dataset import ANOMALOUS, NORMAL, Record
from meds.core.errors import DataError
from meds.plugins.datasets.masked import MaskedDataset, MaskedOptions


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8, 3), 90, np.uint8)).save(path)


def mask(path: Path, level: int = 255) -> None:
    values = np.zeros((6, 8), np.uint8)
    values[1:3, 2:5] = level
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def dataset(path: Path, **options: Any) -> MaskedDataset:
    return MaskedDataset(MaskedOptions(path=path, **{"ending": "_GT", **options}))


def read(path: Path, **options: Any) -> dict[str, Record]:
    records = dataset(path, **options).records()
    order = [(r.class_name, r.split == "test", r.path) for r in records]
    assert order == sorted(order)
    return {Path(record.path).relative_to(path).as_posix(): record for record in records}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """KolektorSDD2 in small: a mask for every image, most of them empty."""
    for part in ("train", "test"):
        for number in range(4):
            image(tmp_path / part / f"{number}.png")
            mask(tmp_path / part / f"{number}_GT.png", 255 if number == 1 else 0)
    return tmp_path


def test_an_image_is_defective_if_its_mask_is_not_empty(folder: Path) -> None:
    found = read(folder, train="train", test="test")
    assert len(found) == 8
    for name, record in found.items():
        defective = name.endswith("/1.png")
        assert record.split == name.split("/")[0]
        assert record.class_name == folder.name
        assert (record.label, record.defect) == ((ANOMALOUS, "defect") if defective else (NORMAL, "good"))
        assert record.mask == (str(folder / record.split / "1_GT.png") if defective else None)


def test_known_defects_among_the_training_images_are_counted(folder: Path) -> None:
    noise = scan(dataset(folder, train="train", test="test"), None).noise
    assert noise["classes"][folder.name]["already_present"] == 1
    assert noise["classes"][folder.name]["normals"] == 3


def test_without_train_all_images_are_training_images(folder: Path) -> None:
    assert {record.split for record in read(folder).values()} == {"train"}


def test_masks_of_defects_only_in_a_folder_beside_each_class_s_images(tmp_path: Path) -> None:
    for name in ("Class2", "Class1"):
        for part in ("Train", "Test"):
            for number in range(3):
                image(tmp_path / name / part / f"{number}.PNG")
            mask(tmp_path / name / part / "Label" / "2_LABEL.PNG", 1)
    found = read(tmp_path, ending="_label", train="train", test="test", class_folders=True)
    assert {name for name, record in found.items() if record.label} == {
        f"{name}/{part}/2.PNG" for name in ("Class1", "Class2") for part in ("Train", "Test")
    }
    assert found["Class1/Test/2.PNG"].mask == str(tmp_path / "Class1/Test/Label/2_LABEL.PNG")


def test_class_folders_that_are_links_are_called_as_they_are_here(tmp_path: Path) -> None:
    for name in ("Class1", "Class2"):
        image(tmp_path / "store" / name / "images" / "0.png")
        image(tmp_path / "store" / name / "images" / "1.png")
        mask(tmp_path / "store" / name / "images" / "1_label.png", 1)
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / name).symlink_to(tmp_path / "store" / name / "images")
    found = MaskedDataset(MaskedOptions(path=tmp_path / "set", ending="_label", class_folders=True)).records()
    assert [record.class_name for record in found] == ["Class1"] * 2 + ["Class2"] * 2


def test_a_mask_directly_beside_its_image_comes_first(tmp_path: Path) -> None:
    image(tmp_path / "0.png")
    image(tmp_path / "1.png")
    mask(tmp_path / "0_GT.png")
    mask(tmp_path / "masks" / "1_GT.bmp")
    found = read(tmp_path)
    assert found["0.png"].mask == str(tmp_path / "0_GT.png")
    assert found["1.png"].mask == str(tmp_path / "masks" / "1_GT.bmp")


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        (None, {"train": "training"}, r"holds no folder 'training'; check `dataset.train`"),
        (
            None,
            {"ending": "_mask"},
            r"no image has a mask that shows a defect, a file called .* '_mask'",
        ),
        ("9_GT.png", {}, r"train/9_GT.png: there is no image for this mask, called as it without '_GT'"),
        ("0_GT.png", {}, r"train/0_GT.png: not an image"),
    ],
)
def test_mistakes(folder: Path, change: str | None, options: dict[str, Any], sentence: str) -> None:
    if change is not None:
        (folder / "train" / change).write_bytes(b"no image")
    with pytest.raises(DataError, match=sentence):
        dataset(folder, **{"train": "train", "test": "test", **options}).records()


def test_an_image_whose_mask_cannot_be_read_may_be_left_out(folder: Path) -> None:
    (folder / "train" / "0_GT.png").write_bytes(b"no image")
    data = scan(dataset(folder, train="train", test="test", unreadable="skip"), None)
    assert data.unreadable == (str(folder / "train" / "0.png"),)
    assert len(data.train) == 3


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no image to train on"):
        dataset(tmp_path).records()
    with pytest.raises(DataError, match="there is no such folder"):
        dataset(tmp_path / "none").records()


def test_test_needs_train() -> None:
    with pytest.raises(ValidationError, match="`test` needs `train`"):
        MaskedOptions(path=Path(), ending="_GT", test="test")
