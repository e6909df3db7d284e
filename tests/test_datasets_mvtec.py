"""The dataset `mvtec` on what differs from MVTec AD: capitals, folders further down, MVTec LOCO, AD 2 and 3D-AD."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meds.core.data import scan
from meds.core.dataset import Record
from meds.core.errors import DataError
from meds.plugins.datasets.mvtec import MvtecDataset, MvtecOptions


def put(root: Path, *names: str, square: slice = slice(0, 6), size: tuple[int, int] = (6, 8)) -> None:
    """Write a black image with a white square at each of the paths."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full(size, number, np.uint8)
        pixels[square, square] = 255
        Image.fromarray(pixels).save(root / name)


def read(path: Path, **options: object) -> list[Record]:
    return list(MvtecDataset(MvtecOptions(path=path, **options)).records())


def kinds(records: Sequence[Record]) -> Counter[tuple[object, ...]]:
    return Counter((r.split, r.label, r.defect, r.mask is not None) for r in records)


def test_images_further_down_and_their_masks(tmp_path: Path) -> None:
    put(tmp_path, "train/good/0.png", "train/good/lot1/0.png", "train/good/lot2/a/0.png")
    put(tmp_path, "test/hole/0.png", "test/hole/lot1/0.png", "test/hole/lot1/1.png")
    put(tmp_path, "ground_truth/hole/lot1/0_mask.png", "ground_truth/hole/1.png")
    records = read(tmp_path)
    assert kinds(records) == {
        ("train", 0, "good", False): 3,
        ("test", 1, "hole", False): 2,
        ("test", 1, "hole", True): 1,
    }
    (masked,) = [r for r in records if r.mask]
    assert (masked.path, masked.mask) == (
        str(tmp_path / "test/hole/lot1/0.png"),
        str(tmp_path / "ground_truth/hole/lot1/0_mask.png"),
    )


@pytest.mark.parametrize("inside", [True, False])
def test_capitals(tmp_path: Path, inside: bool) -> None:
    put(tmp_path / "part", "Train/Good/0.png", "TEST/Good/0.png", "TEST/Bad/0.png", "Ground_Truth/bad/0.png")
    assert kinds(read(tmp_path if inside else tmp_path / "part")) == {
        ("train", 0, "good", False): 1,
        ("test", 0, "good", False): 1,
        ("test", 1, "Bad", True): 1,
    }


def loco(root: Path) -> MvtecDataset:
    put(root, "train/good/0.png", "train/good/1.png", "test/logical/0.png", "test/logical/1.png")
    put(root, "ground_truth/logical/0/000.png", square=slice(0, 2))
    put(root, "ground_truth/logical/0/001.png", square=slice(3, 5))
    return MvtecDataset(MvtecOptions(path=root))


def test_a_folder_of_masks_is_their_union(tmp_path: Path) -> None:
    dataset = loco(tmp_path)
    first, second = [r for r in dataset.records() if r.split == "test"]
    assert (first.mask, second.mask) == (str(tmp_path / "ground_truth/logical/0"), None)
    mask = dataset.read_mask(first)
    assert mask is not None
    assert mask.shape == dataset.mask_size(first) == (6, 8)
    assert mask.sum() == 8
    assert mask[0, 0]
    assert mask[3, 3]
    assert len(scan(dataset, None).test) == 2


def test_masks_of_different_sizes_in_a_folder(tmp_path: Path) -> None:
    dataset = loco(tmp_path)
    put(tmp_path, "ground_truth/logical/0/002.png", size=(3, 3))
    with pytest.raises(DataError, match=r"ground_truth/logical/0: holds masks of different sizes; remove it or"):
        scan(dataset, None)


def test_mvtec_ad_2(tmp_path: Path) -> None:
    put(tmp_path, "train/good/0.png", "test_public/good/0.png", "test_public/bad/0.png", "test_private/0.png")
    put(tmp_path, "test_public/ground_truth/bad/0_mask.png", "validation/good/0.png")
    expected = {("train", 0, "good", False): 1, ("test", 0, "good", False): 1, ("test", 1, "bad", True): 1}
    assert kinds(read(tmp_path)) == expected
    put(tmp_path, "test/worse/0.png")
    assert kinds(read(tmp_path)) == {("train", 0, "good", False): 1, ("test", 1, "worse", False): 1}


def test_exclude(tmp_path: Path) -> None:
    put(tmp_path / "a", "train/good/0.png", "train/good/0_GT.png", "train/Label/0.png", "test/bad/0.png")
    put(tmp_path / "a", "test/bad/0_gt.png", "ground_truth/bad/0_gt.png", "ground_truth/bad/0.png")
    assert kinds(read(tmp_path, exclude=["*_gt.*", "train/label/*"])) == {
        ("train", 0, "good", False): 1,
        ("test", 1, "bad", True): 1,
    }
    with pytest.raises(DataError, match="holds no training image"):
        read(tmp_path, exclude=["a/train/*"])


@pytest.mark.parametrize(
    ("images", "masks", "depth"), [("rgb", "gt", "xyz"), ("img", "label", None), ("Images", "Ground_Truth", "depth")]
)
def test_images_masks_and_depths_side_by_side(tmp_path: Path, images: str, masks: str, depth: str | None) -> None:
    put(tmp_path, f"train/good/{images}/0.png", f"test/good/{images}/0.png", f"test/good/{masks}/0.png")
    put(tmp_path, f"test/hole/{images}/0.png", f"test/hole/{masks}/0.png", f"test/hole/{images}/1.png")
    if depth:
        put(tmp_path, *(f"{place}/{depth}/0.png" for place in ("train/good", "test/good", "test/hole")))
    records = read(tmp_path)
    assert kinds(records) == {
        ("train", 0, "good", False): 1,
        ("test", 0, "good", False): 1,
        ("test", 1, "hole", True): 1,
        ("test", 1, "hole", False): 1,
    }
    assert {Path(r.path).parent.name for r in records} == {images}
    assert {r.mask for r in records if r.mask} == {str(tmp_path / f"test/hole/{masks}/0.png")}


@pytest.mark.parametrize("more", ["test/hole/lot2/0.png", "test/hole/5.png", "test/hole/img/0.png"])
def test_folders_that_are_not_alone_side_by_side_are_all_images(tmp_path: Path, more: str) -> None:
    put(tmp_path, "train/good/0.png", "test/hole/rgb/0.png", "test/hole/gt/0.png", more)
    assert kinds(read(tmp_path)) == {("train", 0, "good", False): 1, ("test", 1, "hole", False): 3}


def test_images_in_a_folder_of_their_own_have_the_masks_of_their_kind(tmp_path: Path) -> None:
    put(tmp_path, "train/good/0.png", "test/hole/img/0.png", "ground_truth/hole/img/0_mask.png")
    assert kinds(read(tmp_path)) == {("train", 0, "good", False): 1, ("test", 1, "hole", True): 1}
    put(tmp_path, "test/hole/depth/0.png", "ground_truth/hole/0_mask.png")
    assert kinds(read(tmp_path)) == {("train", 0, "good", False): 1, ("test", 1, "hole", True): 1}
