"""Recognises how a folder of images is laid out: which dataset reads it, and what was assumed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from meds.core.errors import DataError
from meds.core.image_files import OTHER_SUFFIXES, count_suffixes, folder_called, folders_in, printable
from meds.layouts.labelled import Labels, labelled, labels_of
from meds.layouts.layout import Layout, named_after, probed, quoted, without_masks
from meds.layouts.mask_files import Tree, tree_of
from meds.layouts.masked import masked
from meds.layouts.mvtec import mvtec, trains
from meds.layouts.real_iad import real_iad
from meds.layouts.unlabelled import flat_training, training_alone, unlabelled
from meds.plugins.datasets.visa import SPLIT_TABLE, VisaDataset, VisaOptions

_PLAIN = {"type", "path", "recursive", "exclude", "class_folders"}
_SPLIT = re.compile(r"(train|test|val)(?:ing|idation|id)?(?:[\W\d_]|$)", re.IGNORECASE)
_LABEL_SUFFIXES = frozenset({".csv", ".json", ".xml"})
VISA_FOLDERS = {"normal": "Data/Images/Normal", "abnormal": "Data/Images/Anomaly", "mask": "Data/Masks/Anomaly"}


def recognise(folder: Path) -> Layout:
    """The layout of a folder.

    Raises:
        DataError: there is no such folder, or no image in it, or VisA's split table cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{printable(folder)}: there is no such folder.")
    tree = tree_of(folder)
    if not tree.count(folder):
        raise DataError(" ".join([f"{folder}: holds no image, and no folder in it does.", *_unread(folder)]))
    layout = _of_tree(tree)
    return replace(layout, found=[*layout.found, *_unread(folder, layout)])


def _of_tree(tree: Tree) -> Layout:
    """The layout of a folder, or of the one folder in it that holds everything, or training images, alone."""
    folder, filled = tree.root, tree.filled(tree.root)
    train = folder_called(folder, "train")
    if train and tree.filled(train) and not tree.images(train) and not trains(tree, folder):
        return training_alone(tree, train, _of_tree(tree_of(train)))
    layout = without_masks(_recognised(tree), tree)
    if not _is_plain(layout) or tree.images(folder) or len(filled) != 1:
        return layout
    inner = _of_tree(tree_of(filled[0]))
    return layout if _is_plain(inner) else _from_below(tree, filled[0], inner)


def _from_below(tree: Tree, place: Path, inner: Layout) -> Layout:
    """The layout of the one folder with images in a folder, whose name the class keeps."""
    holding = {folder for path in tree.everything for folder in path.parents}
    beside = [f.name for f in folders_in(tree.root) if f != place and f in holding]
    left = [f"Left alone beside it: {quoted(beside)}."] if beside else []
    found = [f"All images lie in the folder '{place.name}'.", *left, *inner.found]
    return replace(inner, dataset=named_after(inner.dataset, tree.root), found=found)


def _is_plain(layout: Layout) -> bool:
    """Whether all images of a folder are taken for unlabelled ones."""
    return layout.dataset["type"] == "folder" and not layout.dataset.keys() - _PLAIN


def _unread(folder: Path, layout: Layout | None = None) -> list[str]:
    """Sentences about images of formats that are not read, and about files that may hold labels where none are."""
    counts = count_suffixes(folder, OTHER_SUFFIXES | _LABEL_SUFFIXES)
    images = {suffix: count for suffix, count in counts.items() if suffix in OTHER_SUFFIXES}
    tables = {suffix: count for suffix, count in counts.items() if suffix in _LABEL_SUFFIXES}
    said = []
    if images:
        number = sum(images.values())
        said.append(
            f"{number} file{'s' * (number != 1)} of other formats cannot be read ({_listed(images)}): convert them to "
            "png or jpg."
        )
    if tables and layout is not None and layout.dataset["type"] == "folder" and "normal" not in layout.dataset:
        said.append(
            f"No labels are read from files beside the images ({_listed(tables)}): to measure, sort known images into "
            "folders called 'normal' and 'abnormal'."
        )
    return said


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {suffix}" for suffix, count in counts.items())


def _recognised(tree: Tree) -> Layout:
    folder = tree.root
    if trains(tree, folder):
        return mvtec(tree, [folder])
    below = folders_in(folder)
    classes = [f for f in below if trains(tree, f)]
    if classes:
        return mvtec(tree, classes)
    if all((folder / place).is_dir() for place in VISA_FOLDERS.values()):
        return labelled(tree, Labels(VISA_FOLDERS["normal"], VISA_FOLDERS["abnormal"], VISA_FOLDERS["mask"]))
    original = [f for f in below if tree.count(f) and (f / "Data" / "Images").is_dir()]
    if original:
        return _visa(tree, original)
    found = real_iad(tree)
    if found is not None:
        return found
    labels = labels_of(tree, folder)
    if labels is not None:
        return labelled(tree, labels)
    found = masked(tree)
    if found is not None:
        return found
    train = folder_called(folder, "train") or _training_split(tree)
    if train and tree.images(train):
        return flat_training(tree, train)
    return unlabelled(tree)


def _training_split(tree: Tree) -> Path | None:
    """The one folder whose name begins with train, as `train2017`, where the others' begin with test or val."""
    filled = tree.filled(tree.root)
    named = [(f, match[1].lower()) for f in filled if (match := _SPLIT.match(f.name))]
    train = [f for f, split in named if split == "train"]
    others = [f for f, split in named if split != "train"]
    return train[0] if len(train) == 1 and others and len(train) + len(others) == len(filled) else None


def _visa(tree: Tree, classes: Sequence[Path]) -> Layout:
    """The original layout of VisA: <class>/Data/Images/Normal, with a split table or without."""
    path = str(tree.root.resolve())
    if (tree.root / SPLIT_TABLE).is_file():
        return _visa_as_split(path)
    held = {f: tree.images(f / "Data" / "Images" / "Normal") for f in classes if (f / VISA_FOLDERS["normal"]).is_dir()}
    normal = [image for listed in held.values() for image in listed]
    smallest = min(map(len, held.values()), default=0)
    text = ", ".join(f"{f.name} ({len(listed)} normal images)" for f, listed in held.items())
    found = [
        f"The layout of VisA, {len(classes)} class{'es' * (len(classes) > 1)}: {text}.",
        f"`type: visa` wants the split table '{SPLIT_TABLE}', which is not there.",
    ]
    if not all((f / place).is_dir() for f in folders_in(tree.root) for place in VISA_FOLDERS.values()):
        other = unlabelled(tree)
        return replace(other, found=[*found, *other.found])
    found.append("So the images in 'Anomaly' and 40 % of the normal ones are kept for the test.")
    block = {"type": "folder", "path": path, **VISA_FOLDERS, "class_folders": True}
    return Layout(block, found, smallest - max(1, round(0.4 * smallest)), probed(normal))


def _visa_as_split(path: str) -> Layout:
    """The original layout of VisA with its split table; DataError if that says nothing that can be used."""
    # What is missing or damaged is told below, and by the run: it must not keep anybody from a spec.
    records = VisaDataset(VisaOptions(path=Path(path), unreadable="skip")).records()
    trained = [record for record in records if record.split == "train"]
    held = Counter({record.class_name: 0 for record in records})
    held.update(record.class_name for record in trained)
    text = ", ".join(f"{name} ({count} training images)" for name, count in held.items())
    found = [
        f"The layout of VisA, {len(held)} class{'es' * (len(held) > 1)}: {text}.",
        f"Training and test images as the table '{SPLIT_TABLE}' has them, with masks.",
    ]
    images = [Path(record.path) for record in trained]
    return Layout({"type": "visa", "path": path}, found, min(held.values(), default=0), probed(images))
