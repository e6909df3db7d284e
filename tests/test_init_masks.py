"""`meds init` on folders that hold masks of defects: none of them becomes a training image unnoticed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Finished
from layout_cases import images, put, records, written
from PIL import Image


def trained(spec_file: Path, folder: Path) -> list[str]:
    return [Path(r.path).relative_to(folder).as_posix() for r in records(spec_file) if r.split == "train"]


def test_dagm(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "dagm"
    for name in ("Class1", "Class2"):
        put(*(folder / name / "Train" / f"{i}.PNG" for i in range(4)), folder / name / "Train/Label/1_label.PNG")
    spec, said = written(meds, folder)
    assert spec["dataset"]["exclude"] == ["Label/*"]
    assert "2 files look like masks (`Label/*`) and are left out." in said
    assert "Class1 (4), Class2 (4)" in said
    assert len(trained(tmp_path / "out.yaml", folder)) == 8


@pytest.mark.parametrize("ending", ["_label", "_GT", "-Mask", "_ground_truth"])
def test_masks_beside_their_images(tmp_path: Path, meds: Callable[..., Finished], ending: str) -> None:
    folder = tmp_path / "parts"
    put(*images(folder), folder / f"00{ending}.bmp", folder / f"01{ending}.png", folder / "alone_label.png")
    spec, said = written(meds, folder)
    assert spec["dataset"]["exclude"] == [f"*{ending}.*"]
    left = 3 if ending == "_label" else 2
    assert f"{left} files look like masks (`*{ending}.*`) and are left out." in said
    assert f"{7 - left} images with no labels" in said
    assert len(trained(tmp_path / "out.yaml", folder)) == 7 - left


def test_masks_beside_training_images_in_train(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "ksdd2"
    for part in ("train", "test"):
        put(*images(folder / part), *(folder / part / f"{i:02}_GT.png" for i in range(4)))
    spec, said = written(meds, folder)
    parts = {"train": "train", "test": "test"}
    assert spec["dataset"] == {"type": "masked", "path": str(folder), "ending": "_GT", **parts}
    assert "4 images in 'train', 4 of them defective by their masks ('_GT')." in said
    assert "Training images with defects stay among them, and reports count them as known." in said
    assert len(trained(tmp_path / "out.yaml", folder)) == 4


def test_masks_in_a_folder_beside_training_and_test_images(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "dagm"
    for place in (folder / name / part for name in ("Class1", "Class2") for part in ("Train", "Test")):
        put(*(place / f"{i}.PNG" for i in range(4)), place / "Label/1_label.PNG")
    spec, said = written(meds, folder)
    parts = {"train": "Train", "test": "Test", "class_folders": True}
    assert spec["dataset"] == {"type": "masked", "path": str(folder), "ending": "_label", **parts}
    assert "2 folders, each taken as a class (a product type) of its own." in said
    assert "8 images in 'Test', 2 of them defective by their masks ('_label')." in said


def test_masks_of_which_one_has_no_image_are_left_out(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "ksdd2"
    for part in ("train", "test"):
        put(*images(folder / part), *(folder / part / f"{i:02}_GT.png" for i in range(5)))
    assert written(meds, folder)[0]["dataset"]["exclude"] == ["*_GT.*"]


def test_masks_in_the_layout_of_mvtec(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "line"
    put(*images(folder / "train/good"), folder / "train/good/00_mask.png", *images(folder / "test/bad"))
    put(*images(folder / "ground_truth/bad"))
    spec, said = written(meds, folder)
    assert spec["dataset"] == {"type": "mvtec", "path": str(folder), "exclude": ["*_mask.*"]}
    assert "1 file looks like a mask (`*_mask.*`) and is left out." in said
    assert sum(r.mask is not None for r in records(tmp_path / "out.yaml")) == 4
    assert trained(tmp_path / "out.yaml", folder) == [f"train/good/{i:02}.png" for i in range(4)]


def test_a_folder_of_masks_beside_classes(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "products"
    put(*images(folder / "bolt"), *images(folder / "nut"), *images(folder / "masks" / "nut"))
    spec, _ = written(meds, folder)
    assert spec["dataset"] == {"type": "folder", "path": str(folder), "class_folders": True, "exclude": ["masks/*"]}
    assert {r.class_name for r in records(tmp_path / "out.yaml")} == {"bolt", "nut"}


def test_labels_that_are_products_are_images(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "products"
    put(*images(folder / "bottles"), *images(folder / "labels"))
    assert "exclude" not in written(meds, folder)[0]["dataset"]


def test_labels_beside_a_folder_of_images_are_masks(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "parts"
    put(*images(folder / "images"), *images(folder / "labels"))
    spec, _ = written(meds, folder)
    assert spec["dataset"] == {"type": "folder", "path": str(folder), "recursive": True, "exclude": ["labels/*"]}
    assert len(records(tmp_path / "out.yaml")) == 4


def test_a_folder_of_nothing_but_masks_is_taken_as_images(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "parts"
    put(*images(folder / "masks"))
    assert written(meds, folder)[0]["dataset"] == {"type": "folder", "path": str(folder), "recursive": True}


@pytest.fixture
def visa(tmp_path: Path) -> Path:
    data = tmp_path / "visa" / "candle" / "Data"
    put(*images(data / "Images/Normal", 5), *images(data / "Images/Anomaly", 2), *images(data / "Masks/Anomaly", 2))
    return tmp_path / "visa"


def test_visa_without_its_split_table(tmp_path: Path, visa: Path, meds: Callable[..., Finished]) -> None:
    _, said = written(meds, visa)
    assert "`type: visa` wants the split table 'split_csv/1cls.csv', which is not there." in said
    read = records(tmp_path / "out.yaml")
    assert len(read) == 7
    assert sum(r.mask is not None for r in read) == 2
    assert not any("Masks" in r.path for r in read)


def test_visa_beside_another_folder(tmp_path: Path, visa: Path, meds: Callable[..., Finished]) -> None:
    put(*images(visa / "more"))
    spec, said = written(meds, visa)
    assert "split_csv/1cls.csv" in said
    assert spec["dataset"]["exclude"] == ["Masks/*"]
    assert len(records(tmp_path / "out.yaml")) == 11


def test_visa_with_its_split_table(tmp_path: Path, visa: Path, meds: Callable[..., Finished]) -> None:
    splits = ["train", "train", "test", "train", "test"]
    rows = [f"candle,{split},normal,candle/Data/Images/Normal/{i:02}.png," for i, split in enumerate(splits)]
    rows.append("candle,test,anomaly,candle/Data/Images/Anomaly/00.png,candle/Data/Masks/Anomaly/00.png")
    (visa / "split_csv").mkdir()
    (visa / "split_csv" / "1cls.csv").write_text("\n".join(["object,split,label,image,mask", *rows]))
    spec, said = written(meds, visa)
    assert spec["dataset"] == {"type": "visa", "path": str(visa)}
    assert len(records(tmp_path / "out.yaml")) == 6
    assert "candle (3 training images)" in said
    assert "3 training images of a class are few" in said
    (visa / "split_csv" / "1cls.csv").write_text("object,split,label,image\n")
    done = meds("init", visa, "--output", tmp_path / "other.yaml")
    assert (done.code, "1cls.csv:1: the column 'mask' is missing" in done.said) == (2, True)


def mask(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.zeros((30, 40), dtype=np.uint8)
        values[10:14, 5:9] = 255
        Image.fromarray(values).save(path)


@pytest.mark.parametrize(
    ("images_in", "masks_in", "pattern"),
    [
        ("images", "p_masks", "p_masks/*"),
        ("JPEGImages", "SegmentationClass", "SegmentationClass/*"),
        ("Images", "Annotations", "Annotations/*"),
        ("img", "ground_truth_1", "ground_truth_1/*"),
    ],
)
def test_folders_that_are_called_much_like_masks(
    tmp_path: Path, meds: Callable[..., Finished], images_in: str, masks_in: str, pattern: str
) -> None:
    folder = tmp_path / "parts"
    put(*images(folder / images_in))
    mask(*images(folder / masks_in))
    spec, _ = written(meds, folder)
    assert spec["dataset"] == {"type": "folder", "path": str(folder), "recursive": True, "exclude": [pattern]}
    assert len(trained(tmp_path / "out.yaml", folder)) == 4


def test_photographs_in_folders_that_are_called_like_masks_stay(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "products"
    put(*images(folder / "mask_small"), *images(folder / "mask_large"))
    assert "exclude" not in written(meds, folder)[0]["dataset"]


def test_masks_that_only_their_suffix_tells_from_the_images(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "tiles"
    for kind in ("MT_Free", "MT_Crack"):
        put(*(folder / kind / "Imgs" / f"{i}.jpg" for i in range(4)))
        mask(*(folder / kind / "Imgs" / f"{i}.png" for i in range(4)))
    spec, said = written(meds, folder)
    assert spec["dataset"]["exclude"] == ["*.png"]
    assert "8 files look like masks (`*.png`) and are left out." in said
    assert "`normal: NAME`, `abnormal: .` and `recursive: true`" in said
    assert len(trained(tmp_path / "out.yaml", folder)) == 8
    put(*(folder / "MT_Free" / "Imgs" / f"{i}.png" for i in range(4)))
    assert "exclude" not in written(meds, folder, "--force")[0]["dataset"]


def test_masks_named_with_a_word_before(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "parts"
    put(*images(folder))
    mask(folder / "mask_00.png", folder / "mask_01.png")
    assert written(meds, folder)[0]["dataset"]["exclude"] == ["mask_*"]


def test_masks_beside_all_images_without_a_split(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "ksdd"
    for item in ("kos01", "kos02"):
        put(*(folder / item / f"Part{i}.jpg" for i in range(4)))
        mask(folder / item / "Part0_label.bmp")
        for i in range(1, 4):
            Image.fromarray(np.zeros((30, 40), dtype=np.uint8)).save(folder / item / f"Part{i}_label.bmp")
    spec, said = written(meds, folder)
    assert spec["dataset"] == {"type": "masked", "path": str(folder), "ending": "_label"}
    assert "8 images in 'ksdd', 2 of them defective by their masks ('_label')." in said
    assert len(trained(tmp_path / "out.yaml", folder)) == 8


def test_two_kinds_of_masks_beside_images_are_both_left_out(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "parts"
    put(*images(folder))
    mask(*(folder / f"{i:02}{ending}.png" for i in range(4) for ending in ("_mask", "_gt")))
    assert sorted(written(meds, folder)[0]["dataset"]["exclude"]) == ["*_gt.*", "*_mask.*"]
    assert trained(tmp_path / "out.yaml", folder) == [f"{i:02}.png" for i in range(4)]


def test_photographs_that_are_named_like_masks_give_no_labels(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "bottles"
    put(*images(folder), *(folder / f"{i:02}_label.png" for i in range(4)))
    assert written(meds, folder)[0]["dataset"]["type"] == "folder"


def test_masks_of_types_that_are_numbered_alike_are_not_guessed(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "parts"
    put(*(path for kind in ("good", "crack", "hole") for path in images(folder / kind)))
    mask(*images(folder / "crack_mask"), *images(folder / "hole_mask"))
    spec, _ = written(meds, folder)
    assert "mask" not in spec["dataset"]
    assert len(records(tmp_path / "out.yaml")) == 12
