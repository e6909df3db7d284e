"""The dataset visa in both layouts."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meds.core.data import scan
from meds.core.dataset import Record
from meds.core.errors import DataError
from meds.plugins.datasets.visa import VisaDataset, VisaOptions
from meds.plugins.noise_list import ListOptions, ListProtocol


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
    numbers = np.zeros((6, 8), np.uint8)
    numbers[0, 0], numbers[1, 2] = 2, 200
    Image.fromarray(numbers).save(defect.mask)
    assert np.argwhere(dataset.read_mask(defect)).tolist() == [[0, 0], [1, 2]]
    assert dataset.read_mask(Record("a", "a", "test")) is None


def test_numbers_with_a_palette_of_dark_and_bright_colours_are_all_defects(original: Path) -> None:
    dataset, records = read(original)
    defect = next(r for r in records if r.label == 1)
    numbers = np.zeros((6, 8), np.uint8)
    numbers[0, 0], numbers[1, 2] = 1, 2
    picture = Image.fromarray(numbers, mode="P")
    picture.putpalette([0, 0, 0, 200, 0, 0, 0, 40, 0])
    picture.save(defect.mask)
    assert np.argwhere(dataset.read_mask(defect)).tolist() == [[0, 0], [1, 2]]


def test_a_released_list_takes_the_same_images_in_both_layouts(
    original: Path, reorganised: Path, tmp_path: Path
) -> None:
    rows = [
        f"{name}/{place}.JPG,{name}" for name in ("pcb1", "candle") for place in ("train/good/0002", "test/bad/000")
    ]
    (tmp_path / "list.csv").write_text("\n".join(["filename,class", *rows, ""]))
    protocol = ListProtocol(ListOptions(list=tmp_path / "list.csv"))
    for path in (original, reorganised):
        result = protocol.apply(read(path)[1])
        assert [(r.class_name, Path(r.path).name) for r in result.train] == [
            ("candle", "0002.JPG"),
            ("pcb1", "0002.JPG"),
            ("candle", "000.JPG"),
            ("pcb1", "000.JPG"),
        ]
        assert result.injected == (False, False, True, True)


def test_classes_and_layout_can_be_chosen(original: Path) -> None:
    assert {r.class_name for r in read(original, classes=["pcb1"])[1]} == {"pcb1"}
    (original / "split_csv" / "1cls.csv").rename(original / "other.csv")
    assert len(read(original, split_csv=original / "other.csv")[1]) == 8
    assert len(read(original, split_csv="other.csv")[1]) == 8
    with pytest.raises(DataError, match=r"1cls.csv: there is no such split table; .* with `dataset.split_csv`"):
        read(original)
    with pytest.raises(DataError, match="must lead to the layout <class>/train/good"):
        read(original, layout="1cls")
    with pytest.raises(ValueError, match="`split_csv` belongs to `layout: original`"):
        VisaOptions(path=original, layout="1cls", split_csv=original / "other.csv")


def test_files_of_classes_that_are_left_out_need_not_be_there(original: Path) -> None:
    shutil.rmtree(original / "pcb1")
    assert len(read(original, classes=["candle"])[1]) == 4
    with pytest.raises(DataError, match=r"1cls.csv:2: there is no file .*pcb1.*; complete the copy or set"):
        read(original)


def test_a_table_may_start_with_a_byte_order_mark(original: Path) -> None:
    before = read(original)[1]
    path = original / "split_csv" / "1cls.csv"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert read(original)[1] == before


def test_a_table_that_is_no_text(original: Path) -> None:
    (original / "split_csv" / "1cls.csv").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match=r"1cls.csv: the split table cannot be read .*; check `dataset.split_csv`"):
        read(original)


def test_a_missing_mask_is_named_or_skipped(original: Path, reorganised: Path) -> None:
    masks = (
        original / "candle" / "Data" / "Masks" / "Anomaly" / "000.png",
        reorganised / "1cls" / "candle" / "ground_truth" / "bad" / "000.png",
    )
    for root, mask in zip((original, reorganised), masks, strict=True):
        mask.unlink()
        with pytest.raises(DataError, match=f"there is no file {mask}; complete the copy or set"):
            read(root)
        data = scan(read(root, unreadable="skip")[0], None)
        assert [Path(path).name for path in data.unreadable] == ["000.JPG"]
        assert len(data.samples()) == 7


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (table([], "object,split,label,image"), r"1cls.csv:1: the column 'mask' is missing"),
        (table(["a,train,fine,x.JPG,"]), r"1cls.csv:2: split 'train' and label 'fine' are not understood"),
        (table(["a,train,normal,x.JPG,"]), r"1cls.csv:2: there is no file .*x.JPG"),
        (table(["a,train,normal,,"]), r"1cls.csv:2: the column 'image' is empty; fill it in or remove the line"),
        (table([",train,normal,x.JPG,"]), r"1cls.csv:2: the column 'object' is empty"),
        (table(["a,test,anomaly,x.JPG,"]), r"1cls.csv:2: the column 'mask' is empty"),
        (table(["a,train"]), r"1cls.csv:2: split 'train' and label '' are not understood"),
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
