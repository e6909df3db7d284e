"""Records that are read several times in one process: each image is hashed once, and anew when its file changes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from meds.core import images
from meds.core.data import RunData, scan
from meds.core.errors import DataError
from meds.core.records import KnownContents, KnownDataSets
from meds.plugins.datasets.mvtec import MvtecDataset, MvtecOptions


def draw(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three normal images to train on, a normal and a defective one to test on, the latter with a mask."""
    for number in range(3):
        draw(tmp_path / f"nut/train/good/{number}.png", number)
    draw(tmp_path / "nut/test/good/0.png", 10)
    draw(tmp_path / "nut/test/dent/0.png", 20)
    draw(tmp_path / "nut/ground_truth/dent/0_mask.png", 255)
    return tmp_path


def known_scan(folder: Path, known: KnownContents) -> RunData:
    return scan(MvtecDataset(MvtecOptions(path=folder)), None, None, known)


def test_what_is_known_is_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    digest = images.file_digest
    monkeypatch.setattr(images, "file_digest", lambda path: (read.append(path.name), digest(path))[1])
    known = KnownContents()
    first = known_scan(folder, known)
    assert len(read) == 6
    assert known_scan(folder, known) == first
    assert len(read) == 6
    draw(folder / "nut/train/good/1.png", 200)
    os.utime(folder / "nut/train/good/1.png", ns=(1, 1))
    second = known_scan(folder, known)
    assert read[6:] == ["1.png"]
    assert second == scan(MvtecDataset(MvtecOptions(path=folder)), None) != first


def test_changed_masks_and_new_images_are_read(folder: Path) -> None:
    known = KnownContents()
    first = known_scan(folder, known)
    draw(folder / "nut/ground_truth/dent/0_mask.png", 0)
    os.utime(folder / "nut/ground_truth/dent/0_mask.png", ns=(1, 1))
    draw(folder / "nut/train/good/3.png", 3)
    second = known_scan(folder, known)
    assert second == scan(MvtecDataset(MvtecOptions(path=folder)), None)
    assert len(second.train) == len(first.train) + 1
    assert second.test[0].mask_digest != first.test[0].mask_digest


def test_an_image_that_has_become_unreadable_is_named(folder: Path) -> None:
    known = KnownContents()
    known_scan(folder, known)
    (folder / "nut/test/dent/0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"dent/0\.png"):
        known_scan(folder, known)


def test_other_options_are_another_data_set() -> None:
    known = KnownDataSets()
    assert known.of({"type": "folder", "bits": 16}) is known.of({"bits": 16, "type": "folder"})
    assert known.of({"type": "folder", "bits": 16}) is not known.of({"type": "folder", "bits": 12})


def test_the_cases_of_a_comparison_read_each_image_once(
    folder: Path, tiny_spec: dict[str, Any], project: Any, meds: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    digest = images.file_digest
    monkeypatch.setattr(images, "file_digest", lambda path: (read.append(path.name), digest(path))[1])
    tiny_spec |= {"dataset": {"type": "mvtec", "path": str(folder)}, "noise": None}
    tiny_spec["stages"] = [{"type": "fit", "iterations": 0}, {"type": "evaluate", "map_size": 64}]
    arguments = ("compare", project.write(tiny_spec), "--seeds", "0,1,2", "--json")
    done = meds(*arguments, "--runs-dir", project.runs)
    assert done.code == 0, done.err
    assert len(read) == 6
    assert len({row["test_images"] for row in json.loads(done.out)}) == 1
