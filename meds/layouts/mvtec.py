"""Recognises the layout of MVTec AD, and says which of its folders count as normal and which as defects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meds.core.folder_names import NORMAL_NAMES, is_called
from meds.core.image_files import folder_called, folders_in
from meds.layouts.layout import Layout, probed, quoted
from meds.layouts.mask_files import Tree
from meds.plugins.datasets.mvtec import Kind, Parts, kinds_of, parts_of

_NAMED = 4


def trains(tree: Tree, folder: Path) -> bool:
    """Whether a folder is a class in the layout of MVTec AD: its folder `train` has a folder of normal images."""
    train = folder_called(folder, "train")
    return train is not None and any(is_called(kind.name, NORMAL_NAMES) for kind in tree.filled(train))


def mvtec(tree: Tree, classes: Sequence[Path]) -> Layout:
    """The layout of these folders, each a class."""
    parts = {f: parts_of(f) for f in classes}
    trained = {f: _images_of_kinds(tree, part.train) for f, part in parts.items()}
    text = ", ".join(f"{f.resolve().name} ({len(listed)} training images)" for f, listed in trained.items())
    kinds = [kind for part in parts.values() for kind in _kinds_read(part)]
    places = {part.masks for part in parts.values()} | {kind.masks for kind in kinds}
    masks = tuple(place for place in places if place)
    found = [
        f"The layout of MVTec AD (train, test, ground_truth), {len(trained)} class{'es' * (len(trained) > 1)}: {text}.",
        *_tests([part.test for part in parts.values() if part.test], bool(masks)),
        *_kinds(tree, parts),
        *_unused(tree, parts),
    ]
    block: dict[str, Any] = {"type": "mvtec", "path": str(tree.root.resolve())}
    if tree.root not in classes and any(folder_called(f, "train") for f in folders_in(tree.root) if f not in parts):
        # The data set would take every folder with `train` in it.
        block["classes"] = [f.name for f in classes]
    images = [image for listed in trained.values() for image in listed]
    return Layout(
        block, found, min(map(len, trained.values())), probed(images), tuple(kind.images for kind in kinds), masks
    )


def _kinds_read(parts: Parts) -> list[Kind]:
    """What the dataset reads of a class."""
    return [kind for place in (parts.train, parts.test) if place for kind in kinds_of(place, parts.masks)]


def _images_of_kinds(tree: Tree, folder: Path | None) -> list[Path]:
    """The images in the folders of a folder, not those directly in it."""
    kinds = [] if folder is None else kinds_of(folder, None)
    return [path for kind in kinds for path in tree.images(kind.images, recursive=True)]


def _tests(tests: Sequence[Path], masks: bool) -> list[str]:
    if not tests:
        return []
    places = sorted({test.name for test in tests if test.name.lower() != "test"})
    which = f" in {quoted(places)}" if places else ""
    return [f"The test images{which} are measured against their folders' names" + (" and masks." if masks else ".")]


def _kinds(tree: Tree, parts: Mapping[Path, Parts]) -> list[str]:
    """Sentences about what the names of folders say: known defects to train on, and what is normal in the test."""
    train = [kind for part in parts.values() if part.train for kind in tree.filled(part.train)]
    known = {f"'{kind.name}' ({tree.count(kind)})" for kind in train if not is_called(kind.name, NORMAL_NAMES)}
    test = {k.name for part in parts.values() if part.test for k in tree.filled(part.test) if k != part.masks}
    normal = sorted(name for name in test if is_called(name, NORMAL_NAMES))
    said = []
    if known:
        said.append(
            f"Training images in {', '.join(sorted(known))} are known defects: they stay, and reports count them."
        )
    if test:
        defects = sorted(test - {*normal})
        more = f" and {len(defects) - _NAMED} more" if len(defects) > _NAMED else ""
        shown = quoted(defects[:_NAMED]) + more if defects else "none"
        said.append(f"Normal there: {quoted(normal) or 'none'}; types of defect: {shown}.")
    return said


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
