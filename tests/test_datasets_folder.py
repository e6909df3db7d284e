"""The dataset `folder`: what `exclude` leaves out, and masks that lie flat beside folders of defects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from meds.core.data import scan
from meds.core.dataset import Record
from meds.core.errors import DataError
from meds.core.reporter import SilentReporter
from meds.plugins.datasets.folder import FolderDataset, FolderOptions


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 8), 200, np.uint8)).save(root / name)


def read(path: Path, **options: object) -> list[Record]:
    return list(FolderDataset(FolderOptions(path=path, **options)).records())


def names(root: Path, records: list[Record]) -> list[str]:
    return [Path(r.path).relative_to(root).as_posix() for r in records]


def test_exclude_by_name_and_by_path(tmp_path: Path) -> None:
    put(tmp_path, "a/0.png", "a/1.png", "a/1_Mask.png", "a/Labels/0.png", "b_mask.d/0.png", "labels.png")
    kept = ["a/0.png", "a/1.png", "b_mask.d/0.png", "labels.png"]
    given = {"recursive": True, "exclude": ["*_mask.*", "labels/*"]}
    assert names(tmp_path, read(tmp_path, **given)) == kept
    with pytest.raises(DataError, match="1 training image;"):
        read(tmp_path, recursive=True, exclude=["a/*", "b*/*"])


def test_class_folders_that_are_links_are_called_as_they_are_here(tmp_path: Path) -> None:
    for name, line in (("bolts", "line1"), ("nuts", "line2")):
        put(tmp_path, *(f"store/{line}/images/{i}.png" for i in range(2)))
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / name).symlink_to(tmp_path / "store" / line / "images")
    assert [r.class_name for r in read(tmp_path / "set", class_folders=True)] == ["bolts"] * 2 + ["nuts"] * 2


def test_exclude_begins_at_the_path_of_the_dataset(tmp_path: Path) -> None:
    root = tmp_path / "masks"
    put(root, "bolt/0.png", "bolt/1.png", "nut/0.png", "nut/1.png", "nut/2.png", "gt/0.png")
    assert len(read(root, class_folders=True, exclude=["masks/*", "nut/2.png", "gt/*"])) == 4
    with pytest.raises(DataError, match="gt has 1 training image;"):
        read(root, class_folders=True)


def test_exclude_of_labelled_images(tmp_path: Path) -> None:
    put(tmp_path, *(f"ok/{i}.png" for i in range(5)), "ok/0_gt.png", "ng/0.png", "ng/0_gt.png", "masks/0.png")
    records = read(tmp_path, normal="ok", abnormal="ng", mask="masks", exclude=["*_gt.*", "masks/*"])
    assert len(records) == 6
    assert [r.mask for r in records if r.label == 1] == [str(tmp_path / "masks/0.png")]


def sorted_by_type(root: Path, *masks: str) -> dict[str, object]:
    put(root, *(f"good/{i}.png" for i in range(5)), "dent/d0.png", "scratch/d1.png", "scratch/d2.png", *masks)
    return {"normal": "good", "abnormal": ".", "mask": "masks", "recursive": True}


def test_masks_that_lie_flat(tmp_path: Path) -> None:
    given = sorted_by_type(tmp_path, "masks/d0.png", "masks/d1_mask.png", "masks/scratch/d2.png", "masks/d9.png")
    found = {Path(r.path).stem: r.mask for r in read(tmp_path, **given) if r.label == 1}
    assert found == {
        "d0": str(tmp_path / "masks/d0.png"),
        "d1": str(tmp_path / "masks/d1_mask.png"),
        "d2": str(tmp_path / "masks/scratch/d2.png"),
    }


def test_a_flat_mask_of_two_images(tmp_path: Path) -> None:
    given = sorted_by_type(tmp_path, "dent/d1.png", "masks/d1.png")
    with pytest.raises(DataError, match=r"masks/d1\.png: 2 defective images are called 'd1' .*move it into a folder"):
        read(tmp_path, **given)
    put(tmp_path, "masks/dent/d1.png")
    found = {Path(r.path).parent.name: r.mask for r in read(tmp_path, **given) if Path(r.path).stem == "d1"}
    assert found == {"dent": str(tmp_path / "masks/dent/d1.png"), "scratch": str(tmp_path / "masks/d1.png")}


def test_a_scan_tells_how_far_it_is(tmp_path: Path) -> None:
    put(tmp_path / "line", "0.png", "1.png", "2.png")
    steps: list[tuple[str, int]] = []

    class Bar:
        def advance(self, count: int = 1, note: str = "") -> None:
            steps.append(("step", count))

    class Told(SilentReporter):
        @contextmanager
        def bar(self, title: str, total: int) -> Iterator[Any]:
            steps.append((title, total))
            yield Bar()

    scan(FolderDataset(FolderOptions(path=tmp_path / "line")), None, Told())
    assert steps == [("images", 3), ("step", 1), ("step", 1), ("step", 1)]
