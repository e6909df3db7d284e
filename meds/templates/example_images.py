"""Draws the images that a new dataset package brings along, so that its tests and its example have some."""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from meds.core.dataset import Record
from meds.core.registry import Registry

COLUMNS = ("image", "class", "split", "defect", "mask")
_DRAWN = {"classes": ["discs"], "train": 16, "test_normal": 4, "test_defective": 6, "image_size": 64}


def write_example_images(folder: Path, registry: Registry) -> None:
    """26 images of the dataset `synthetic` as PNG files with masks, and the table images.csv."""
    synthetic = registry.get("dataset", "synthetic")
    dataset = synthetic.load()(synthetic.plugin.options.model_validate(_DRAWN))
    rows = []
    for record in dataset.records():
        image = _path_of(record.path)
        _save(folder / image, dataset.read_image(record))
        mask = dataset.read_mask(record)
        if mask is not None:
            _save(folder / _path_of(record.mask), mask.astype(np.uint8) * np.uint8(255))
        rows.append(_row(record, image))
    with (folder / "images.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([COLUMNS, *rows])


def _path_of(name: str) -> str:
    """The file for an image's name: "synthetic/discs/test/dent/0001.png" -> "test/dent/0001.png"."""
    return str(PurePosixPath(*PurePosixPath(name).parts[2:]))


def _row(record: Record, image: str) -> tuple[str, ...]:
    mask = "" if record.mask is None else _path_of(record.mask)
    return (image, record.class_name, record.split, record.defect or "", mask)


def _save(path: Path, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
