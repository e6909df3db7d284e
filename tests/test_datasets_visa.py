"""The dataset visa in both layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meds.core.errors import DataError
from meds.plugins.datasets.visa import VisaDataset, VisaOptions


def put(path: Path, value: int = 200) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8), value, np.uint8)).save(path)


def table(rows: list[str], header: str = "object,split,label,image,mask") -> str:
    return "\n".join([header, *rows, ""])


@pytest.fixture
def original(tmp_path: Path) -> Path:
    root = tmp_path / "VisA"
    rows = []
    for name in ("pcb1", "candle"):
        for split, label, stem in (
            ("train", "normal", "0002"),
            ("train", "normal", "0001"),
            ("test", "normal", "0003"),
            ("test", "anomaly", "000"),
        ):
            kind = label.capitalize()
            image = f"{name}/Data/Images/{kind}/{stem}.JPG"
            put(root / image)
            mask = ""
            if label == "anomaly":
                mask = f"{name}/Data/Masks/Anomaly/{stem}.png"
                put(root / mask, 3)
            rows.append(f"{name},{split},{label},{image},{mask}")
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text(table(rows))
    return root


@pytest.fixture
def reorganised(tmp_path: Path) -> Path:
    root = tmp_path / "VisA_pytorch"
    for name in ("pcb1", "candle"):
        for place in ("train/good/0001.JPG", "train/good/0002.JPG", "test/good/0003.JPG", "test/bad/000.JPG"):
            put(root / "1cls" / name / place)
        put(root / "1cls" / name / "ground_truth" / "bad" / "000.png", 255)
    return root


def read(path: Path, **options):
    dataset = VisaDataset(VisaOptions(path=path, **options))
    return dataset, dataset.records()


def test_both_layouts_give_the_same_images(original: Path, reorganised: Path) -> None:
    def shown(path: Path):
        return [
            (r.class_name, r.split, r.label, r.defect, Path(r.path).name, r.mask is not None) for r in read(path)[1]
        ]

    assert shown(original) == shown(reorganised) == shown(reorganised / "1cls")
    assert shown(original)[:4] == [
        ("candle", "train", 0, "good", "0001.JPG", False),
        ("candle", "train", 0, "good", "0002.JPG", False),
        ("candle", "test", 1, "bad", "000.JPG", True),
        ("candle", "test", 0, "good", "0003.JPG", False),
    ]


def test_a_mask_pixel_is_a_defect_whatever_its_number(original: Path) -> None:
    dataset, records = read(original)
    defect = next(r for r in records if r.label == 1)
    assert dataset.read_mask(defect).all()


def test_classes_and_layout_can_be_chosen(original: Path) -> None:
    assert {r.class_name for r in read(original, classes=["pcb1"])[1]} == {"pcb1"}
    (original / "split_csv" / "1cls.csv").rename(original / "other.csv")
    assert len(read(original, split_csv=original / "other.csv")[1]) == 8
    with pytest.raises(DataError, match=r"1cls.csv: the split table cannot be read .*; give it as `dataset.split_csv`"):
        read(original)
    with pytest.raises(DataError, match="must lead to the layout <class>/train/good"):
        read(original, layout="1cls")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (table([], "object,split,label,image"), r"1cls.csv:1: the column 'mask' is missing"),
        (table(["a,train,fine,x.JPG,"]), r"1cls.csv:2: split 'train' and label 'fine' are not understood"),
        (table(["a,train,normal,x.JPG,"]), r"1cls.csv:2: there is no file .*x.JPG"),
        (table(["a,train,normal,,"]), r"1cls.csv:2: there is no file"),
    ],
)
def test_mistakes_in_the_table(original: Path, text: str, sentence: str) -> None:
    (original / "split_csv" / "1cls.csv").write_text(text)
    with pytest.raises(DataError, match=sentence):
        read(original)


def test_an_unknown_class_and_a_missing_folder(original: Path) -> None:
    with pytest.raises(DataError, match=r"there is no class 'pcb9'; `dataset.classes` can name: candle, pcb1"):
        read(original, classes=["pcb9"])
    with pytest.raises(DataError, match=r"nowhere: there is no such folder; check `dataset.path`"):
        read(original / "nowhere")
