"""Recognises training and test folders in which masks beside the images say which of them are defective."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meds.core.data import MINIMUM_TRAINING_IMAGES
from meds.core.dataset import NORMAL, Record
from meds.core.errors import DataError
from meds.core.image_files import MASK_ENDING, folder_called, folders_in
from meds.layouts.layout import Layout, probed
from meds.layouts.mask_files import Tree, look_like_masks
from meds.plugins.datasets.masked import MaskedDataset, MaskedOptions

_NEARLY_ALL = 0.9


def masked(tree: Tree) -> Layout | None:
    """The layout of images with masks beside them, if it is that.

    In `train` and `test`, of the folder or of each folder there; else nearly all images of the folder need a mask.
    """
    classes = not _splits(tree.root)
    folders = folders_in(tree.root) if classes else [tree.root]
    places = [place for folder in folders for place in _splits(folder)]
    ending, _ = _ending(tree, places) if folders and len(places) == 2 * len(folders) else (None, 0)
    options: dict[str, Any] = {"path": str(tree.root.resolve())}
    if ending is not None:
        options |= {"ending": ending, "train": places[0].name, "test": places[1].name}
        options |= {"class_folders": True} if classes else {}
    else:
        ending, number = _ending(tree, [tree.root, *tree.filled(tree.root)])
        if ending is None or number < _NEARLY_ALL * tree.count(tree.root):
            return None
        options |= {"ending": ending}
        places = [tree.root]
    try:
        records = MaskedDataset(MaskedOptions.model_validate(options)).records()
    except DataError:
        return None
    if "train" not in options and not _credible(tree, records, ending):
        return None
    trained = [record for record in records if record.split == "train"]
    smallest = min(Counter(record.class_name for record in trained).values())
    found = _told(records, ending, places)
    return Layout({"type": "masked", **options}, found, smallest, probed([Path(record.path) for record in trained]))


def _credible(tree: Tree, records: Sequence[Record], ending: str) -> bool:
    """Whether what is named like masks looks like it, tells normal from defective, and nothing else is read."""
    masks = [path for path in tree.everything if path.stem.lower().endswith(ending.lower())]
    normal = sum(record.label == NORMAL for record in records)
    told = MINIMUM_TRAINING_IMAGES <= normal < len(records) == tree.count(tree.root)
    return told and look_like_masks(masks)


def _splits(folder: Path) -> list[Path]:
    """The folders of training and of test images; none unless both are there."""
    found = [place for place in (folder_called(folder, "train"), folder_called(folder, "test")) if place]
    return found if len(found) == 2 else []


def _ending(tree: Tree, places: Sequence[Path]) -> tuple[str | None, int]:
    """What most masks in these folders have after the name of an image beside them, and how many have it."""
    images = {image.with_suffix("") for place in places for image in tree.images(place)}
    endings: Counter[str] = Counter()
    for path in tree.everything:
        match = MASK_ENDING.match(path.stem)
        if match and not images.isdisjoint({path.parent / match[1], path.parent.parent / match[1]}):
            endings[match[2]] += 1
    return endings.most_common(1)[0] if endings else (None, 0)


def _told(records: Sequence[Record], ending: str, places: Sequence[Path]) -> list[str]:
    classes = {record.class_name for record in records}
    parts = [f"{len(classes)} folders, each taken as a class (a product type) of its own."] if len(classes) > 1 else []
    for split, place in zip(("train", "test"), places, strict=False):
        own = [record for record in records if record.split == split]
        defects = sum(bool(record.label) for record in own)
        parts.append(f"{len(own)} images in '{place.name}', {defects} of them defective by their masks ('{ending}').")
    return [*parts, "Training images with defects stay among them, and reports count them as known."]
