"""What is made of a folder of which no layout says what is normal: all its images are trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from meds.core.image_files import folder_called
from meds.layouts.labelled import labelled_classes, labels_of
from meds.layouts.layout import Layout, named_after, probed, quoted
from meds.layouts.mask_files import Tree

# 2024-05-01, 20240501_2, lot 12, Charge-0031, shift_B, week 7; but not 01, as some products are called.
_DAY_OR_LOT = re.compile(
    r"(?:(?:19|20)\d{2}(?:[01]\d[0-3]\d|\D[01]\d(?:\D[0-3]\d)?)(?:\D.*)?"
    r"|(?:lot|batch|charge|los|shift|schicht|day|tag|week|woche|kw)(?:\d+|[\W_]+\w{1,6}))",
    re.IGNORECASE,
)
_PARTS = frozenset({"train", "test", "ground_truth"})


def unlabelled(tree: Tree) -> Layout:
    """The images of a folder, or of the folders in it, each a class."""
    folder, filled = tree.root, tree.filled(tree.root)
    block = {"type": "folder", "path": str(folder.resolve())}
    direct = tree.images(folder)
    if direct:
        found = [f"{len(direct)} images with no labels; some of them may be defects."]
        if filled:
            names = ", ".join(f.name for f in filled)
            found.append(f"Folders that are left alone: {names} (`recursive: true` takes their images too).")
        return Layout(block, found, len(direct), probed(direct), (folder,))
    if len(filled) > 1:
        return _classes(tree, filled)
    images = tree.images(folder, recursive=True)
    found = [f"{len(images)} images in the folder '{filled[0].name}', with no labels.", *_further_down(tree)]
    found += _taken_together(tree, filled[0])
    return Layout({**block, "recursive": True}, found, len(images), probed(images), (folder,))


def flat_training(tree: Tree, train: Path) -> Layout:
    """The images that lie in a folder of training images itself."""
    images, folder = tree.images(train), tree.root
    block = named_after({"type": "folder", "path": str(train.resolve())}, folder)
    left = [f for f in tree.filled(folder) if f != train]
    found = [f"{len(images)} images with no labels in '{train.name}'; some of them may be defects."]
    tests = [f for f in left if f.name.lower() == "test" and tree.filled(f)]
    if tests:
        kinds = quoted([f.name for f in tree.filled(tests[0])])
        found.append(
            f"'{tests[0].name}' with {kinds} is left alone; to measure against these folders, move the training images "
            f"to '{train.name}/good', which makes it the layout of MVTec AD, and call this again."
        )
    others = [f.name for f in left if f not in tests]
    if others:
        found.append(f"Folders that are left alone, as they say of no image what it is: {', '.join(others)}.")
    return Layout(block, found, len(images), probed(images), (train,))


def training_alone(tree: Tree, train: Path, inner: Layout) -> Layout:
    """The layout `inner` of a folder of training images, none of whose folders is called as normal ones are."""
    dataset = dict(inner.dataset)
    if dataset.get("class_folders") and "normal" not in dataset:
        # Lots of one product are commoner below `train` than products are.
        images = tree.images(train, recursive=True)
        dataset = {key: value for key, value in dataset.items() if key != "class_folders"}
        dataset |= {"path": str(train.resolve()), "recursive": True}
        told = [f"{len(images)} images with no labels.", *_taken_together(tree, train)]
        inner = Layout(dataset, told, len(images), probed(images), (train,))
    left = [f.name for f in tree.filled(tree.root) if f != train]
    found = [f"Training images in '{train.name}', of whose folders none is called 'good' or 'normal':", *inner.found]
    if left:
        found.append(
            f"Left alone: {quoted(left)}. To measure against test images, call the folders of normal ones 'good' there "
            f"and in '{train.name}', which makes it the layout of MVTec AD, and call this again."
        )
    return replace(inner, dataset=named_after(dataset, tree.root), found=found)


def _taken_together(tree: Tree, folder: Path) -> list[str]:
    """A sentence if the images of a folder lie in several folders there."""
    filled = tree.filled(folder)
    if len(filled) < 2 or tree.images(folder):
        return []
    return [
        f"They are taken for one class; if {quoted([f.name for f in filled[:4]])} are products of their own, call this "
        f"with '{folder.name}' itself."
    ]


def _further_down(tree: Tree) -> list[str]:
    """A sentence about folders called train and test that lie below the folders of this one."""
    places = {place for path in tree.everything for place in path.parents if place.name.lower() in _PARTS}
    holders = sorted({p.parent for p in places if tree.root in p.parent.parents})
    if not holders:
        return []
    return [
        f"Folders called train, test or ground_truth lie further down, in {holders[0].relative_to(tree.root)}: if they "
        "are meant so, call this with the folder that holds them."
    ]


def _classes(tree: Tree, folders: Sequence[Path]) -> Layout:
    labels = [labels_of(tree, f) for f in folders]
    if labels[0] is not None and all(label == labels[0] for label in labels):
        return labelled_classes(tree, folders, labels[0])
    trained = _training_of_classes(tree, folders)
    if trained is not None:
        return trained
    held = {f: tree.images(f, recursive=True) for f in folders}
    if all(_DAY_OR_LOT.fullmatch(f.name) for f in folders):
        return _days(tree, held)
    found = [
        f"{len(held)} folders of images, each taken as a class (a product type) of its own: {_counted(held)}.",
        "If they are one class, write `recursive: true` in place of `class_folders: true`; if one holds normal images "
        "and the others defects, `normal: NAME`, `abnormal: .` and `recursive: true`.",
    ]
    if any(labels):
        found.append("Folders inside them are not taken as labels, because they are not called the same in each.")
    found += _further_down(tree)
    nested = any(len(listed) != len(tree.images(f)) for f, listed in held.items())
    block = {"type": "folder", "path": str(tree.root.resolve()), "class_folders": True}
    block |= {"recursive": True} if nested else {}
    return _of_classes(block, found, held, (tree.root,))


def _days(tree: Tree, held: Mapping[Path, Sequence[Path]]) -> Layout:
    """The layout of folders that are called like days or lots: one class, of which tomorrow there is another folder."""
    images = [image for listed in held.values() for image in listed]
    found = [
        f"{len(images)} images with no labels in {len(held)} folders called like days or lots: {_counted(held)}.",
        "They are taken for one class; if each is a product of its own, write `class_folders: true` as well.",
        *_further_down(tree),
    ]
    block = {"type": "folder", "path": str(tree.root.resolve()), "recursive": True}
    return Layout(block, found, len(images), probed(images), (tree.root,))


def _counted(held: Mapping[Path, Sequence[Path]]) -> str:
    return ", ".join(f"{folder.name} ({len(listed)})" for folder, listed in held.items())


def _of_classes(
    block: dict[str, Any], found: list[str], held: Mapping[Path, Sequence[Path]], reads: tuple[Path, ...]
) -> Layout:
    """The layout of folders that are classes, with the training images of each."""
    images = [image for listed in held.values() for image in listed]
    return Layout(block, found, min(map(len, held.values())), probed(images), reads)


def _training_of_classes(tree: Tree, folders: Sequence[Path]) -> Layout | None:
    """The layout of classes that have a folder of training images each, if all have: nothing else is trained on."""
    trains = [folder_called(f, "train") for f in folders]
    names = {f.name for f in trains if f is not None and tree.count(f)}
    if None in trains or len(names) != 1:
        return None
    name = names.pop()
    held = {f: tree.images(f / name, recursive=True) for f in folders}
    found = [
        f"{len(held)} folders with training images in '{name}', each taken as a class (a product type): "
        f"{_counted(held)}.",
        "None of their folders is called 'good' or 'normal', so that they count as normal (with unknown mistakes), and "
        "test images are left alone; to measure, call the folders of normal images 'good'.",
    ]
    block = {
        "type": "folder",
        "path": str(tree.root.resolve()),
        "class_folders": True,
        "normal": name,
        "recursive": True,
    }
    return _of_classes(block, found, held, tuple(f / name for f in folders))
