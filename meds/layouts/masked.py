"""Recognises training and test folders in which masks beside the images say which of them are defective."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meds.core.dataset import Record
from meds.core.errors import DataError
from meds.core.image_files import folder_called, folders_in
from meds.layouts.layout import Layout, sizes
from meds.layouts.mask_files import ENDING, Tree
from meds.plugins.datasets.masked import MaskedDataset, MaskedOptions


def masked(tree: Tree) -> Layout | None:
    """The layout of `train` and `test` with masks in them, in the folder or in each folder there, if it is that."""
    classes = not _splits(tree.root)
    folders = folders_in(tree.root) if classes else [tree.root]
    places = [place for folder in folders for place in _splits(folder)]
    ending = _ending(tree, places) if folders and len(places) == 2 * len(folders) else None
    if ending is None:
        return None
    options: dict[str, Any] = {
        "path": str(tree.root.resolve()),
        "ending": ending,
        "train": places[0].name,
        "test": places[1].name,
    }
    options |= {"class_folders": True} if classes else {}
    try:
        records = MaskedDataset(MaskedOptions.model_validate(options)).records()
    except DataError:
        return None
    trained = [record for record in records if record.split == "train"]
    smallest = min(Counter(record.class_name for record in trained).values())
    found = _told(records, ending, places)
    return Layout({"type": "masked", **options}, found, smallest, sizes([Path(record.path) for record in trained]))


def _splits(folder: Path) -> list[Path]:
    """The folders of training and of test images; none unless both are there."""
    found = [place for place in (folder_called(folder, "train"), folder_called(folder, "test")) if place]
    return found if len(found) == 2 else []


def _ending(tree: Tree, places: Sequence[Path]) -> str | None:
    """What most masks in these folders have after the name of an image beside them; None if there are none."""
    images = {image.with_suffix("") for place in places for image in tree.images(place)}
    endings: Counter[str] = Counter()
    for path in tree.everything:
        match = ENDING.match(path.stem)
        if match and not images.isdisjoint({path.parent / match[1], path.parent.parent / match[1]}):
            endings[match[2]] += 1
    return endings.most_common(1)[0][0] if endings else None


def _told(records: Sequence[Record], ending: str, places: Sequence[Path]) -> list[str]:
    classes = {record.class_name for record in records}
    parts = [f"{len(classes)} folders, each taken as a class (a product type) of its own."] if len(classes) > 1 else []
    for split, place in zip(("train", "test"), places, strict=False):
        own = [record for record in records if record.split == split]
        defects = sum(bool(record.label) for record in own)
        parts.append(f"{len(own)} images in '{place.name}', {defects} of them defective by their masks ('{ending}').")
    return [*parts, "Training images with defects stay among them, and reports count them as known."]
