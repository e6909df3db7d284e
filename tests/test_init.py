"""`meds init`: what it finds in a folder, and that `meds run` works on what it writes."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Finished
from layout_cases import found, images, put, records, written
from PIL import Image

from meds.cli.starting_points import STARTING_POINTS
from meds.core.errors import DataError
from meds.core.registry import load_registry
from meds.core.spec import load_spec
from meds.plugins.datasets.folder import FolderDataset, FolderOptions


def test_a_folder_without_labels_runs_as_written(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "line 3: left"
    put(*images(folder, 6))
    (folder / "notes.txt").write_text("x")
    spec, said = written(meds, folder)
    assert spec["dataset"] == {"type": "folder", "path": str(folder)}
    assert spec["name"] == "out"
    assert "6 images with no labels" in said
    assert "Image sizes: 40x30" in said
    assert "6 training images of a class are few" in said
    quick = ["stages.distill.iterations=2", "stages.select-finetune.iterations=2", "backbone.pretrained=false"]
    quick += ["backbone.image_size=64", "student.layers=null", "student.blocks=[1,1,1]", "device=cpu", "threads=1"]
    sets = [part for text in quick for part in ("--set", text)]
    done = meds("run", tmp_path / "out.yaml", "--runs-dir", tmp_path / "runs", *sets)
    assert done.code == 0, done.err
    assert (tmp_path / "runs" / "out" / "ranking.csv").is_file()


def test_photos_of_other_formats_are_told(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "phone"
    put(*images(folder, 4))
    next(folder.glob("*.png")).rename(folder / "x.jfif")
    for name in ("a.HEIC", "b.heic", "deeper/c.gif"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    said = written(meds, folder)[1]
    assert "4 images with no labels" in said
    assert "3 files of other formats cannot be read (2 .heic, 1 .gif): convert them to png or jpg." in said


def test_a_folder_of_other_formats_only(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    (tmp_path / "a.heic").touch()
    done = meds("init", tmp_path)
    assert (done.code, "1 file of other formats cannot be read (1 .heic): convert them" in done.said) == (2, True)


def test_one_image_is_too_few(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "one"
    put(*images(folder, 1))
    done = meds("init", folder, "--output", tmp_path / "out.yaml")
    assert (done.code, "one has 1 training image;" in done.said) == (2, True), done.said
    assert not (tmp_path / "out.yaml").exists()


def test_normal_abnormal_and_masks(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "parts"
    put(*images(folder / "OK", 5), *images(folder / "NG", 2), *images(folder / "masks", 2))
    spec, said = written(meds, folder)
    assert spec["dataset"] == {"type": "folder", "path": str(folder), "normal": "OK", "abnormal": "NG", "mask": "masks"}
    assert "2 images in 'NG', taken as defective" in said


def test_normal_images_beside_a_folder_of_defects(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "parts"
    put(*images(folder, 5), *images(folder / "defects", 2))
    assert written(meds, folder)[0]["dataset"]["normal"] == "."


def test_a_folder_for_each_type_of_defect(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "parts"
    put(*images(folder / "good", 5), *images(folder / "hole", 2), *images(folder / "scratch", 3))
    put(*images(folder / "masks" / "hole", 2))
    spec, said = written(meds, folder)
    more = {"normal": "good", "abnormal": ".", "mask": "masks", "recursive": True}
    assert spec["dataset"] == {"type": "folder", "path": str(folder), **more}
    assert "5 images in 'hole', 'scratch', taken as defective, each folder a type of defect" in said
    assert "take `abnormal` and `recursive` out" in said
    defects = {("parts", "test", 1, "hole"), ("parts", "test", 1, "scratch")}
    assert found(tmp_path / "out.yaml") == {("parts", "train", 0, "good"), ("parts", "test", 0, "good"), *defects}


def test_labels_in_folders_of_days(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "parts"
    put(*images(folder / "IO" / "monday", 5), *images(folder / "NIO" / "monday", 2), *images(folder / "later", 2))
    spec, said = written(meds, folder)
    assert spec["dataset"].items() >= {"normal": "IO", "abnormal": "NIO", "recursive": True}.items()
    assert "Folders that are left alone: later." in said
    assert {(split, label) for _, split, label, _ in found(tmp_path / "out.yaml")} == {
        ("train", 0),
        ("test", 0),
        ("test", 1),
    }


def test_labels_in_every_class_folder(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "products"
    for name in ("bolt", "nut"):
        put(*images(folder / name / "good", 5), *images(folder / name / "bad", 2))
    spec, said = written(meds, folder)
    assert spec["dataset"].items() >= {"normal": "good", "abnormal": "bad", "class_folders": True}.items()
    assert "bolt (5 normal, 2 defective), nut (5 normal, 2 defective)" in said
    assert "3 training images of a class are few" in said
    assert len(found(tmp_path / "out.yaml")) == 6


def test_training_images_that_lie_in_train_itself(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "bottle"
    put(*images(folder / "train"), *images(folder / "test"))
    _, said = written(meds, folder)
    assert "Folders that are left alone, as they say of no image what it is: test." in said
    assert found(tmp_path / "out.yaml") == {("bottle", "train", None, None)}


def test_normal_images_that_are_called_normal_in_the_layout_of_mvtec(
    tmp_path: Path, meds: Callable[..., Finished]
) -> None:
    folder = tmp_path / "bottle"
    put(*images(folder / "train" / "Normal"), *images(folder / "test" / "normal"), *images(folder / "test" / "hole"))
    written(meds, folder)
    good = {("bottle", split, 0, "good") for split in ("train", "test")}
    assert found(tmp_path / "out.yaml") == {*good, ("bottle", "test", 1, "hole")}


@pytest.mark.parametrize("inside", [True, False])
def test_the_layout_of_mvtec(tmp_path: Path, meds: Callable[..., Finished], inside: bool) -> None:
    folder = tmp_path / "data"
    root = folder / "bottle" if inside else folder
    put(*images(root / "train" / "good"), *images(root / "test" / "broken"), *images(root / "ground_truth" / "broken"))
    spec, said = written(meds, folder)
    assert spec["dataset"] == {"type": "mvtec", "path": str(folder)}
    assert f"{'bottle' if inside else 'data'} (4 training images)" in said
    assert "measured against their folders' names and masks" in said


def test_images_in_lots_and_folders_in_capitals(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "data"
    put(*images(folder / "line/Train/Good/lot1"), *images(folder / "line/Train/Good"), folder / "line/Train/0.png")
    put(*images(folder / "line/Test/Bad"))
    spec, said = written(meds, folder)
    assert spec["dataset"] == {"type": "mvtec", "path": str(folder)}
    assert "line (8 training images)" in said
    assert "1 image lies directly in 'train' and not in a folder there such as 'good': left alone." in said
    assert Counter(r.split for r in records(tmp_path / "out.yaml")) == {"train": 8, "test": 4}


def test_mvtec_loco_and_mvtec_ad_2(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    loco, public = tmp_path / "loco", tmp_path / "ad2" / "can"
    put(*images(loco / "train/good"), *images(loco / "test/logical"), *images(loco / "ground_truth/logical/00"))
    put(*images(loco / "validation/good"), *images(public / "train/good"), *images(public / "test_public/bad"))
    put(*images(public / "test_public/ground_truth/bad"), *images(public / "test_private"))
    _, said = written(meds, loco)
    assert "Folders that are left alone: validation." in said
    assert sum(r.mask is not None for r in records(tmp_path / "out.yaml")) == 1
    spec, said = written(meds, public.parent, "--force")
    assert spec["dataset"] == {"type": "mvtec", "path": str(public.parent)}
    assert "The test images in 'test_public' are measured against their folders' names and masks." in said
    assert "Folders that are left alone: test_private." in said
    assert sum(r.mask is not None for r in records(tmp_path / "out.yaml")) == 4


def test_training_images_in_train_itself_beside_a_sorted_test(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "bottle"
    put(*images(folder / "train"), *images(folder / "test/ok"), *images(folder / "test/ng"), *images(folder / "more"))
    _, said = written(meds, folder)
    assert "'test' with 'ng', 'ok' is left alone; to measure against these folders, move the training images" in said
    assert "as they say of no image what it is: more." in said


def test_masks_that_lie_flat_beside_types_of_defect(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "parts"
    put(*images(folder / "good", 5), folder / "dent/a.png", folder / "scratch/b.png", folder / "masks/b.png")
    _, said = written(meds, folder)
    assert "Masks of the defects in 'masks'." in said
    assert [Path(r.mask).name for r in records(tmp_path / "out.yaml") if r.mask] == ["b.png"]


def test_links_to_folders_and_webp(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    put(*(tmp_path / "far/ok" / f"{i}.webp" for i in range(5)), *images(tmp_path / "far/dent"))
    folder = tmp_path / "parts"
    folder.mkdir()
    for link, target in (("good", "ok"), ("dent", "dent")):
        (folder / link).symlink_to(tmp_path / "far" / target)
    _, said = written(meds, folder)
    assert "5 images in 'good'" in said
    assert len(records(tmp_path / "out.yaml")) == 9


@pytest.mark.parametrize(("largest", "bits"), [(200, 12), (1023, 12), (4095, 12), (65520, None)])
def test_images_of_12_bits_in_16(tmp_path: Path, meds: Callable[..., Finished], largest: int, bits: int | None) -> None:
    folder = tmp_path / "camera"
    folder.mkdir()
    values = np.linspace(0, largest, 24 * 24).reshape(24, 24).astype(np.uint16)
    for number in range(6):
        Image.fromarray(values).save(folder / f"{number}.png")
    spec, said = written(meds, folder)
    assert "Image sizes: 24x24; the encoder sees them as squares." in said
    assert spec["dataset"].get("bits") == bits
    assert (f"`bits: {bits}` has them read so" in said) == (bits is not None)
    dataset = FolderDataset(FolderOptions(**{k: v for k, v in spec["dataset"].items() if k != "type"}))
    assert dataset.read_image(dataset.records()[0]).max() == round(largest * 255 / (2 ** (bits or 16) - 1))


def test_a_folder_with_a_line_break_in_its_name(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "line\nname: 1" / "more\nseed: x"
    put(*images(folder))
    spec, said = written(meds, folder.parent)
    assert spec["dataset"]["path"] == str(folder.parent)
    assert r"in the folder 'more\nseed: x'" in said


def test_a_name_that_is_no_text(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "parts"
    put(*images(folder))
    try:
        (folder / "00.png").rename(folder / os.fsdecode(b"Pr\xfcfung.png"))
    except OSError:
        pytest.skip("this file system takes no such names")
    done = meds("init", folder)
    assert (done.code, r"Pr\xfcfung.png: the name is not text in UTF-8" in done.said) == (2, True)


@pytest.mark.parametrize("names", [("2024-05-01", "2024-05-02"), ("lot 12", "Lot-13"), ("20240501_a", "20240502")])
def test_folders_of_days_and_lots_are_one_class(
    tmp_path: Path, meds: Callable[..., Finished], names: tuple[str, str]
) -> None:
    folder = tmp_path / "line"
    for name in names:
        put(*images(folder / name))
    spec, said = written(meds, folder)
    assert spec["dataset"] == {"type": "folder", "path": str(folder), "recursive": True}
    assert "8 images with no labels in 2 folders called like days or lots: " in said
    assert {r.class_name for r in records(tmp_path / "out.yaml")} == {"line"}


def test_files_of_several_pages_are_told(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "scans"
    put(*images(folder))
    first, second = (Image.new("L", (24, 24), shade) for shade in (50, 200))
    first.save(folder / "all.tif", save_all=True, append_images=[second])
    assert "Some files hold several pages, and only the first is read" in written(meds, folder)[1]


def test_the_run_is_called_as_the_folder_or_the_spec_that_is_asked_for(
    tmp_path: Path, meds: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(*images(tmp_path / "line 3: left"))
    monkeypatch.chdir(tmp_path)
    assert meds("init", "line 3: left").code == 0
    assert "name: line-3-left\n" in (tmp_path / "line-3-left.yaml").read_text()
    for name in ("cam1", "cam2"):
        put(*images(tmp_path / name / "images"))
        assert meds("init", tmp_path / name / "images", "--output", tmp_path / f"{name}.yaml").code == 0
        assert f"name: {name}\n" in (tmp_path / f"{name}.yaml").read_text()


def test_class_folders(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "products"
    put(*images(folder / "bolt"), *images(folder / "nut" / "monday"), *images(folder / "nut" / "friday"))
    spec, said = written(meds, folder)
    assert spec["dataset"] == {"type": "folder", "path": str(folder), "class_folders": True, "recursive": True}
    assert "2 folders of images, each taken as a class (a product type) of its own: bolt (4), nut (8)" in said
    block = load_spec(tmp_path / "out.yaml", load_registry()).dataset
    records = block.registration.load()(block.options).records()
    assert {(r.class_name, r.split, r.label) for r in records} == {("bolt", "train", None), ("nut", "train", None)}
    assert len(records) == 12


def test_one_folder_in_a_folder_and_images_that_cannot_be_read(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "line"
    put(*images(folder / "export"))
    put(folder / "export" / "z.png", size=(20, 20))
    (folder / "export" / "broken.png").write_bytes(b"x")
    spec, said = written(meds, folder)
    assert spec["dataset"] == {"type": "folder", "path": str(folder), "recursive": True, "unreadable": "skip"}
    assert "40x30, 20x20; the encoder sees them as squares. Some cannot be read; they are left out" in said


def test_a_file_is_not_written_over(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "line"
    put(*images(folder))
    written(meds, folder)
    (tmp_path / "out.yaml").write_text("mine")
    done = meds("init", folder, "--output", tmp_path / "out.yaml")
    assert (done.code, "is there already" in done.said) == (2, True)
    assert (tmp_path / "out.yaml").read_text() == "mine"
    assert written(meds, folder, "--force")[0]["name"] == "out"


@pytest.mark.parametrize(("make", "sentence"), [(False, "there is no such folder"), (True, "holds no image")])
def test_folders_without_images(tmp_path: Path, meds: Callable[..., Finished], make: bool, sentence: str) -> None:
    if make:
        (tmp_path / "empty" / "more").mkdir(parents=True)
    done = meds("init", tmp_path / "empty")
    assert (done.code, sentence in done.said) == (2, True)


@pytest.mark.parametrize("backbone", [None, *STARTING_POINTS])
@pytest.mark.parametrize("installed", [[], *([point.package] for point in STARTING_POINTS.values())])
def test_student_and_encoder_that_suit_each_other(
    tmp_path: Path,
    meds: Callable[..., Finished],
    monkeypatch: pytest.MonkeyPatch,
    backbone: str | None,
    installed: list[str],
) -> None:
    monkeypatch.setattr("meds.cli.starting_points.find_spec", lambda name: name in installed or None)
    folder = tmp_path / "line"
    put(*images(folder, 6))
    spec, _ = written(meds, folder, *(["--backbone", backbone] if backbone else []))
    chosen = backbone or next((name for name, point in STARTING_POINTS.items() if point.package in installed), "timm")
    assert spec["backbone"]["type"] == chosen
    how = "the installed package" if STARTING_POINTS.get(chosen) and STARTING_POINTS[chosen].installed() else "pip"
    assert how in (tmp_path / "out.yaml").read_text()
    fast = ("backbone.pretrained=false", "backbone.image_size=56", "device=cpu")
    done = meds("plan", tmp_path / "out.yaml", *(part for setting in fast for part in ("--set", setting)))
    assert (done.code, "select-finetune" in done.said) == (0, True), done.err


def test_an_encoder_that_init_does_not_set_up(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    put(*images(tmp_path / "line"))
    done = meds("init", tmp_path / "line", "--backbone", "dinov2")
    assert (done.code, "did you mean 'dinov2-small'?" in done.said) == (2, True)


def test_what_lies_further_down(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    inner = tmp_path / "archive" / "data" / "mvtec"
    put(*images(inner / "bolt" / "train" / "good"), *images(inner / "bolt" / "test" / "no_defect"))
    put(*images(inner / "bolt" / "test" / "crack"), *images(inner / "bolt" / "train" / "NG", 2))
    spec, said = written(meds, tmp_path / "archive")
    assert spec["dataset"] == {"type": "mvtec", "path": str(inner)}
    assert "All images lie in the folder 'data'." in said
    assert "Training images in 'NG' (2) are known defects: they stay" in said
    assert "Normal there: 'no_defect'; types of defect: 'crack'." in said
    assert ("bolt", "test", 0, "good") in found(tmp_path / "out.yaml")
    put(*images(tmp_path / "archive" / "data" / "other" / "train"))
    assert "lie further down, in data/mvtec/bolt" in written(meds, tmp_path / "archive", "--force")[1]


def test_training_images_of_which_no_folder_is_called_normal(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "casting"
    for part in ("train", "test"):
        put(*images(folder / part / "ok_front"), *images(folder / part / "def_front"))
    spec, said = written(meds, folder)
    labels = {"normal": "ok_front", "abnormal": "def_front", "class_name": "casting"}
    assert spec["dataset"] == {"type": "folder", "path": str(folder / "train"), **labels}
    assert "Left alone: 'test'. To measure against test images, call the folders of normal ones 'good'" in said
    assert ("casting", "test", 1, "def_front") in found(tmp_path / "out.yaml")


@pytest.mark.parametrize(
    ("normal", "abnormal"),
    [
        ("i.O.", "n.i.O."),
        ("No_Defect", "defect"),
        ("non defective", "Defective"),
        ("Gut", "Schlecht"),
        ("NODefect_images", "Defect_images"),
    ],
)
def test_names_for_normal_and_defective(
    tmp_path: Path, meds: Callable[..., Finished], normal: str, abnormal: str
) -> None:
    folder = tmp_path / "line"
    put(*images(folder / normal), *images(folder / abnormal))
    spec, _ = written(meds, folder)
    assert (spec["dataset"]["normal"], spec["dataset"]["abnormal"]) == (normal, abnormal)


def test_products_whose_names_begin_with_a_label(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "products"
    put(*images(folder / "good year tyre"), *images(folder / "wheel"))
    assert written(meds, folder)[0]["dataset"]["class_folders"] is True


def test_splits_are_no_products_and_tables_are_told(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "steel"
    put(*images(folder / "train_images"), *images(folder / "test_images"))
    (folder / "train.csv").write_text("ImageId,ClassId\n")
    spec, said = written(meds, folder)
    assert spec["dataset"] == {"type": "folder", "path": str(folder / "train_images"), "class_name": "steel"}
    assert "No labels are read from files beside the images (1 .csv)" in said


def test_a_folder_of_other_files_beside_the_classes(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "products"
    put(*images(folder / "bolt"), *images(folder / "nut"))
    (folder / "docs").mkdir()
    (folder / "docs" / "manual.pdf").write_bytes(b"x")
    written(meds, folder)
    assert {record.class_name for record in records(tmp_path / "out.yaml")} == {"bolt", "nut"}
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no image"):
        records(tmp_path / "out.yaml")


def test_real_iad(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "data"
    for name in ("realiad_jsons", "realiad_jsons_sv"):
        (folder / name).mkdir(parents=True)
        entries = [{"image_path": f"OK/{i:02}.png", "anomaly_class": "OK", "mask_path": None} for i in range(4)]
        content = {"meta": {"prefix": "cap/", "normal_class": "OK"}, "train": entries, "test": entries[:1]}
        (folder / name / "cap.json").write_text(json.dumps(content))
    put(*images(folder / "realiad_512" / "cap" / "OK"))
    spec, said = written(meds, folder)
    assert spec["dataset"] == {"type": "real-iad", "path": str(folder)}
    assert "cap (4 training images)" in said
    assert "Other lists, for the option `lists`: 'realiad_jsons_sv'." in said
    (folder / "realiad_jsons" / "cap.json").write_text("{}")
    assert written(meds, folder, "--force")[0]["dataset"]["type"] == "folder"


def test_mvtec_3d(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    for kind in ("train/good", "test/good", "test/crack"):
        put(*images(tmp_path / "3d/bagel" / kind / "rgb"), *images(tmp_path / "3d/bagel" / kind / "xyz"))
    put(*images(tmp_path / "3d/bagel/test/good/gt"), *images(tmp_path / "3d/bagel/test/crack/gt"))
    spec, said = written(meds, tmp_path / "3d")
    assert spec["dataset"] == {"type": "mvtec", "path": str(tmp_path / "3d")}
    assert f"1 class: bagel ({len(images(tmp_path))} training images)" in said
    assert "measured against their folders' names and masks" in said
    assert "look like masks" not in said


def test_folders_that_are_no_classes_of_mvtec_are_left_alone(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    put(*images(tmp_path / "a" / "bolt" / "train" / "good"), *images(tmp_path / "a" / "nut" / "train" / "fine"))
    spec, said = written(meds, tmp_path / "a")
    assert spec["dataset"]["classes"] == ["bolt"]
    assert "Folders that are left alone: nut." in said
    assert {record.class_name for record in records(tmp_path / "out.yaml")} == {"bolt"}


@pytest.mark.parametrize("around", ["images", "train"])
def test_lots_are_one_class(tmp_path: Path, meds: Callable[..., Finished], around: str) -> None:
    folder = tmp_path / "line"
    put(*images(folder / around / "lot1"), *images(folder / around / "lot2", 1))
    _, said = written(meds, folder)
    assert {record.class_name for record in records(tmp_path / "out.yaml")} == {"line"}
    assert len(records(tmp_path / "out.yaml")) == 5
    assert "They are taken for one class; if " in said


def test_only_training_images_of_classes_are_trained_on(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "parts"
    for name in ("a", "b"):
        put(*(image for part in ("train", "test") for image in images(folder / name / part / "ok_front")))
    spec, said = written(meds, folder)
    assert spec["dataset"]["normal"] == "train"
    assert "call the folders of normal images 'good'" in said
    assert all("/train/" in record.path for record in records(tmp_path / "out.yaml"))


def test_one_class_of_visa_keeps_its_masks_and_name(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    folder = tmp_path / "candle"
    put(*images(folder / "Data/Images/Normal"), *images(folder / "Data/Images/Anomaly"))
    put(*images(folder / "Data/Masks/Anomaly"))
    assert written(meds, folder)[0]["dataset"]["mask"] == "Data/Masks/Anomaly"
    assert {record.class_name for record in records(tmp_path / "out.yaml")} == {"candle"}
    put(*images(tmp_path / "box" / "images" / "good"), *images(tmp_path / "box" / "images" / "defect"))
    put(*images(tmp_path / "box" / "ground_truth" / "defect"))
    spec, said = written(meds, tmp_path / "box", "--force")
    assert (spec["dataset"]["class_name"], "Left alone beside it: 'ground_truth'." in said) == ("box", True)


def test_products_called_trainer_and_valve(tmp_path: Path, meds: Callable[..., Finished]) -> None:
    put(*images(tmp_path / "shop" / "trainer"), *images(tmp_path / "shop" / "valve"))
    assert written(meds, tmp_path / "shop")[0]["dataset"]["class_folders"] is True
