"""Masks, listing, resizing and hashing: what `meds.core.images` and `image_files` do besides decoding pictures."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meds.core import images
from meds.core.backbone import Preprocessing
from meds.core.errors import DataError
from meds.core.image_files import DRAWN, folders_in, list_images, masks_by_image
from meds.layouts.recognise import recognise
from meds.plugins.datasets.folder import FolderDataset, FolderOptions


def saved(folder: Path, values: np.ndarray) -> Path:
    Image.fromarray(values).save(folder / "m.png")
    return folder / "m.png"


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0, 1]], np.uint8),
        np.array([[0, 3]], np.uint8),
        np.array([[127, 128]], np.uint8),
        np.array([[0, 255]], np.uint8),
        np.array([[False, True]]),
        np.array([[0, 65535]], np.uint16),
        np.array([[0, 1]], np.uint16),
        np.array([[[0, 0, 0], [0, 200, 0]]], np.uint8),
        np.array([[[0, 0, 0, 255], [255, 0, 0, 0]]], np.uint8),
    ],
)
def test_masks(tmp_path: Path, values: np.ndarray) -> None:
    mask = images.read_mask(saved(tmp_path, values))
    assert mask.dtype == np.bool_
    assert mask.tolist() == [[False, True]]


def test_an_empty_mask_is_empty(tmp_path: Path) -> None:
    assert not images.read_mask(saved(tmp_path, np.zeros((4, 4), np.uint8))).any()


def test_masks_by_image(tmp_path: Path) -> None:
    for name in ("0_mask.png", "0.png", "1.png", "deep/2_mask.bmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = masks_by_image(tmp_path, recursive=True)
    assert {name: found[name].name for name in ("0", "1", "deep/2")} == {
        "0": "0_mask.png",
        "1": "1.png",
        "deep/2": "2_mask.bmp",
    }


def test_listing(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpeg", "c.Tif", ".hidden.png", "notes.txt", "sub/d.bmp", ".cache/e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["a.jpeg", "b.PNG", "c.Tif"]
    deep = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path, recursive=True)]
    assert deep == ["a.jpeg", "b.PNG", "c.Tif", "sub/d.bmp"]
    with pytest.raises(DataError, match="no such folder"):
        list_images(tmp_path / "nothing")


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    for name in ("real/b/0.png", "far/1.png", "far/deep/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    root = tmp_path / "real"
    for link, target in {"a": root / "b", "b/again": root, "far": tmp_path / "far", "gone": tmp_path / "x"}.items():
        (root / link).symlink_to(target)
    (tmp_path / "far" / "back").symlink_to(root)
    assert [p.relative_to(root).as_posix() for p in list_images(root, recursive=True)] == [
        "b/0.png",
        "far/1.png",
        "far/deep/2.png",
    ]
    assert list_images(root) == []


def test_a_link_to_a_folder_around_it_brings_in_nothing(tmp_path: Path) -> None:
    for name in ("good/0.png", "bad/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "good" / "all").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "good")
    assert [p.name for p in list_images(tmp_path / "good", recursive=True)] == ["0.png"]
    assert [p.name for p in list_images(tmp_path / "link", recursive=True)] == ["0.png"]


@pytest.mark.parametrize("name", [b"Pr\xfcfung.png", b"Pr\xfcfung/0.png"])
def test_a_name_that_is_no_text(tmp_path: Path, name: bytes) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    try:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    except OSError:
        pytest.skip("this file system takes no such names")
    with pytest.raises(DataError, match=r"/Pr\\xfcfung[^:]*: the name is not text in UTF-8.*; rename it\.") as caught:
        list_images(tmp_path, recursive=True)
    assert str(caught.value).isprintable()
    assert str(caught.value).encode()


def test_resize_and_crop_cuts_the_centre() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 40:, 1] = 255
    result = images.resize_and_crop(image, Preprocessing(resize=32, size=28))
    assert result.shape == (28, 28, 3)
    assert result.dtype == np.uint8
    assert (result[:, :13, 1] == 0).all()
    assert (result[:, 15:, 1] == 255).all()
    assert result.flags.writeable


def test_resizing_to_the_same_size_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(images.resize_and_crop(image, Preprocessing(resize=8, size=8)), image)
    assert np.array_equal(images.resize_and_crop(image, Preprocessing(resize=8, size=4)), image[2:6, 2:6])


def test_masks_follow_the_image() -> None:
    mask = np.zeros((64, 64), bool)
    mask[16:32, 32:48] = True
    plain = Preprocessing(resize=64, size=64)
    assert np.array_equal(images.resize_and_crop_mask(mask, plain, 64, "half"), mask)
    cropped = images.resize_and_crop_mask(mask, Preprocessing(resize=64, size=32), 16, "half")
    assert np.array_equal(cropped, mask[16:48, 16:48][::2, ::2])
    enlarged = images.resize_and_crop_mask(mask, plain, 128, "half")
    assert np.array_equal(enlarged, mask.repeat(2, 0).repeat(2, 1))


def test_mask_rules_differ_at_the_border() -> None:
    mask = np.zeros((64, 64), bool)
    mask[30:33, 30:33] = True
    small = Preprocessing(resize=16, size=16)
    half = images.resize_and_crop_mask(mask, small, 16, "half")
    touched = images.resize_and_crop_mask(mask, small, 16, "any")
    assert touched.any()
    assert half.sum() < touched.sum()
    assert touched[half].all()


def test_nearest_masks_have_no_grey_rim() -> None:
    mask = np.zeros((64, 64), bool)
    mask[28:36, 28:36] = True
    # A shrunk pixel takes the value in its middle: 2, 6, 10, ... of the large mask.
    sampled = mask[2::4, 2::4]
    small = Preprocessing(resize=16, size=16)
    for rule in ("half", "any"):
        assert np.array_equal(images.resize_and_crop_mask(mask, small, 16, rule, "nearest"), sampled)
    assert images.resize_and_crop_mask(mask, small, 16, "any").sum() > sampled.sum()


def test_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"x" * 3_000_000)
    assert images.file_digest(path) == hashlib.sha256(b"x" * 3_000_000).hexdigest()


def drawn(root: Path, *names: str) -> None:
    """Images, and in the folders `heatmaps` and `masks` of `predictions` what `meds predict` writes there."""
    for name in (*names, "predictions/heatmaps/0.png", "predictions/masks/0.png", "predictions/masks/deep/0.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 8), 200, np.uint8)).save(root / name)
    for kind in ("heatmaps", "masks"):
        (root / "predictions" / kind / DRAWN).touch()


def test_pictures_of_predict_are_no_images_and_other_masks_are(tmp_path: Path) -> None:
    drawn(tmp_path, "0.png", "masks/0.png", "predictions/own/0.png")
    (tmp_path / "link").symlink_to(tmp_path / "predictions" / "heatmaps")
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path, recursive=True)]
    assert found == ["0.png", "masks/0.png", "predictions/own/0.png"]
    assert [path.name for path in folders_in(tmp_path / "predictions")] == ["own"]
    # Whoever names the folder means it.
    named = tmp_path / "predictions" / "masks"
    assert list_images(named) == [named / "0.png"]
    assert masks_by_image(named) == {"0": named / "0.png"}


def test_datasets_take_no_pictures_of_predict(tmp_path: Path) -> None:
    drawn(tmp_path, *(f"{name}/{i}.png" for name in ("bolts", "nuts") for i in range(2)))
    (tmp_path / "predictions" / "predictions.csv").touch()
    for options in ({"recursive": True}, {"class_folders": True, "recursive": True}):
        records = FolderDataset(FolderOptions(path=tmp_path, **options)).records()
        assert {Path(record.path).parent.name for record in records} == {"bolts", "nuts"}
    layout = recognise(tmp_path)
    assert layout.dataset["class_folders"]
    assert not any("predictions" in sentence for sentence in layout.found)
