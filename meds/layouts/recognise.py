"""Recognises how a folder of images is laid out: which dataset reads it, and what was assumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from meds.core.errors import DataError
from meds.core.image_files import count_unread, folder_called, folders_in, printable
from meds.layouts.labelled import labelled, labelled_classes, labels_of
from meds.layouts.layout import Layout, sizes, without_masks
from meds.layouts.mask_files import Tree, tree_of
from meds.layouts.masked import masked
from meds.plugins.datasets.mvtec import Parts, parts_of
from meds.plugins.datasets.visa import SPLIT_TABLE

VISA_FOLDERS = {"normal": "Data/Images/Normal", "abnormal": "Data/Images/Anomaly", "mask": "Data/Masks/Anomaly"}


def recognise(folder: Path) -> Layout:
    """The layout of a folder.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise DataError(f"{printable(folder)}: there is no such folder.")
    tree = tree_of(folder)
    if not tree.count(folder):
        raise DataError(f"{folder}: holds no image, and no folder in it does. {_unread(folder)}".rstrip())
    layout = without_masks(_recognised(tree), tree)
    return replace(layout, found=[*layout.found, *filter(None, [_unread(folder)])])


def _unread(folder: Path) -> str:
    """A sentence about images of formats that are not read; empty if there are none."""
    counts = count_unread(folder)
    number, listed = sum(counts.values()), ", ".join(f"{count} {suffix}" for suffix, count in counts.items())
    if not counts:
        return ""
    return f"{number} file{'s' * (number != 1)} of other formats cannot be read ({listed}): convert them to png or jpg."


def _recognised(tree: Tree) -> Layout:
    folder = tree.root
    if _trains(tree, folder):
        return _mvtec(tree, [folder])
    below = folders_in(folder)
    classes = [f for f in below if _trains(tree, f)]
    if classes:
        return _mvtec(tree, classes)
    original = [f for f in below if tree.count(f) and (f / "Data" / "Images").is_dir()]
    if original:
        return _visa(tree, original)
    labels = labels_of(tree, folder)
    if labels is not None:
        return labelled(tree, labels)
    found = masked(tree)
    if found is not None:
        return found
    train = folder_called(folder, "train")
    if train and tree.images(train):
        return _flat_training(tree, train)
    return _unlabelled(tree)


def _unlabelled(tree: Tree) -> Layout:
    folder, filled = tree.root, tree.filled(tree.root)
    block = {"type": "folder", "path": str(folder.resolve())}
    direct = tree.images(folder)
    if direct:
        found = [f"{len(direct)} images with no labels; some of them may be defects."]
        if filled:
            names = ", ".join(f.name for f in filled)
            found.append(f"Folders that are left alone: {names} (`recursive: true` takes their images too).")
        return Layout(block, found, len(direct), sizes(direct), (folder,))
    if len(filled) > 1:
        return _classes(tree, filled)
    images = tree.images(folder, recursive=True)
    found = [f"{len(images)} images in the folder '{filled[0].name}', with no labels."]
    return Layout({**block, "recursive": True}, found, len(images), sizes(images), (folder,))


def _trains(tree: Tree, folder: Path) -> bool:
    """Whether a folder is a class in the layout of MVTec AD: it has a folder `train` with folders of images."""
    train = folder_called(folder, "train")
    return train is not None and bool(tree.filled(train))


def _mvtec(tree: Tree, classes: Sequence[Path]) -> Layout:
    parts = {f: parts_of(f) for f in classes}
    trained = {f: _images_of_kinds(tree, part.train) for f, part in parts.items()}
    text = ", ".join(f"{f.resolve().name} ({len(listed)} training images)" for f, listed in trained.items())
    masks = tuple(part.masks for part in parts.values() if part.masks)
    found = [
        f"The layout of MVTec AD (train, test, ground_truth), {len(trained)} class{'es' * (len(trained) > 1)}: {text}.",
        *_tests([part.test for part in parts.values() if part.test], bool(masks)),
        *_unused(tree, parts),
    ]
    block = {"type": "mvtec", "path": str(tree.root.resolve())}
    images = [image for listed in trained.values() for image in listed]
    reads = tuple(place for part in parts.values() for place in (part.train, part.test) if place)
    return Layout(block, found, min(map(len, trained.values())), sizes(images), reads, masks)


def _images_of_kinds(tree: Tree, folder: Path | None) -> list[Path]:
    """The images in the folders of a folder, not those directly in it."""
    kinds = [] if folder is None else folders_in(folder)
    return [path for kind in kinds for path in tree.images(kind, recursive=True)]


def _tests(tests: Sequence[Path], masks: bool) -> list[str]:
    if not tests:
        return []
    places = sorted({test.name for test in tests if test.name.lower() != "test"})
    which = f" in {_quoted(places)}" if places else ""
    return [f"The test images{which} are measured against their folders' names" + (" and masks." if masks else ".")]


def _unused(tree: Tree, parts: Mapping[Path, Parts]) -> list[str]:
    """Sentences about images that the layout of MVTec AD has no place for."""
    used = {place for part in parts.values() for place in (part.train, part.test, part.masks)}
    parents = [*parts] if tree.root in parts else [tree.root, *parts]
    left = {f.name for parent in parents for f in tree.filled(parent) if f not in used and f not in parts}
    direct = [path for part in parts.values() if part.train for path in tree.images(part.train)]
    said = [f"Folders that are left alone: {', '.join(sorted(left))}."] if left else []
    if direct:
        text = "1 image lies" if len(direct) == 1 else f"{len(direct)} images lie"
        said.append(f"{text} directly in 'train' and not in a folder there such as 'good': left alone.")
    return said


def _visa(tree: Tree, classes: Sequence[Path]) -> Layout:
    """The original layout of VisA: <class>/Data/Images/Normal, with a split table or without."""
    path = str(tree.root.resolve())
    held = {f: tree.images(f / "Data" / "Images" / "Normal") for f in classes if (f / VISA_FOLDERS["normal"]).is_dir()}
    normal = [image for listed in held.values() for image in listed]
    smallest = min(map(len, held.values()), default=0)
    text = ", ".join(f"{f.name} ({len(listed)} normal images)" for f, listed in held.items())
    found = [f"The layout of VisA, {len(classes)} class{'es' * (len(classes) > 1)}: {text}."]
    if (tree.root / SPLIT_TABLE).is_file():
        found.append(f"Training and test images as the table '{SPLIT_TABLE}' has them, with masks.")
        return Layout({"type": "visa", "path": path}, found, smallest, sizes(normal))
    found.append(f"`type: visa` wants the split table '{SPLIT_TABLE}', which is not there.")
    if not all((f / place).is_dir() for f in folders_in(tree.root) for place in VISA_FOLDERS.values()):
        other = _unlabelled(tree)
        return replace(other, found=[*found, *other.found])
    found.append("So the images in 'Anomaly' and 40 % of the normal ones are kept for the test.")
    block = {"type": "folder", "path": path, **VISA_FOLDERS, "class_folders": True}
    return Layout(block, found, smallest - max(1, round(0.4 * smallest)), sizes(normal))


def _flat_training(tree: Tree, train: Path) -> Layout:
    images, folder = tree.images(train), tree.root
    block = {"type": "folder", "path": str(train.resolve()), "class_name": folder.resolve().name or "images"}
    left = [f for f in tree.filled(folder) if f != train]
    found = [f"{len(images)} images with no labels in '{train.name}'; some of them may be defects."]
    tests = [f for f in left if f.name.lower() == "test" and tree.filled(f)]
    if tests:
        kinds = _quoted([f.name for f in tree.filled(tests[0])])
        found.append(
            f"'{tests[0].name}' with {kinds} is left alone; to measure against these folders, move the training images "
            f"to '{train.name}/good', which makes it the layout of MVTec AD, and call this again."
        )
    others = [f.name for f in left if f not in tests]
    if others:
        found.append(f"Folders that are left alone, as they say of no image what it is: {', '.join(others)}.")
    return Layout(block, found, len(images), sizes(images), (train,))


def _classes(tree: Tree, folders: Sequence[Path]) -> Layout:
    labels = [labels_of(tree, f) for f in folders]
    if labels[0] is not None and all(label == labels[0] for label in labels):
        return labelled_classes(tree, folders, labels[0])
    held = {f: tree.images(f, recursive=True) for f in folders}
    images = [image for listed in held.values() for image in listed]
    text = ", ".join(f"{f.name} ({len(listed)})" for f, listed in held.items())
    found = [
        f"{len(held)} folders of images, each taken as a class (a product type) of its own: {text}.",
        "If they are one class, write `recursive: true` in place of `class_folders: true`.",
    ]
    if any(labels):
        found.append("Folders inside them are not taken as labels, because they are not called the same in each.")
    nested = any(len(listed) != len(tree.images(f)) for f, listed in held.items())
    block = {"type": "folder", "path": str(tree.root.resolve()), "class_folders": True}
    block |= {"recursive": True} if nested else {}
    return Layout(block, found, min(map(len, held.values())), sizes(images), (tree.root,))


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
