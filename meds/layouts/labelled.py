"""Recognises folders whose names say which images are normal and which are defective."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meds.core.errors import DataError
from meds.core.folder_names import ABNORMAL_NAMES, NORMAL_NAMES, begins_with, is_called
from meds.core.image_files import MASK_ENDING, folders_in
from meds.layouts.layout import Layout, probed
from meds.layouts.mask_files import Tree
from meds.plugins.datasets.folder import FolderDataset, FolderOptions


@dataclass(frozen=True)
class Labels:
    """A folder in which names tell normal from defective images: names of its folders, "." for the folder itself."""

    normal: str
    abnormal: str | None
    mask: str | None
    recursive: bool = False
    left: tuple[str, ...] = ()

    def images(self, tree: Tree, folder: Path) -> tuple[list[Path], list[Path]]:
        """The normal and the defective images of such a folder, as the dataset reads them."""
        places = {name: folder / name for name in (self.normal, self.abnormal, self.mask) if name}
        found = {name: tree.images(place, self.recursive) for name, place in places.items()}

        def of(name: str | None) -> list[Path]:
            inner = [p for p in places.values() if name and p != places[name] and p.is_relative_to(places[name])]
            return [image for image in found.get(name or "", []) if not any(map(image.is_relative_to, inner))]

        return of(self.normal), of(self.abnormal)


def labels_of(tree: Tree, folder: Path) -> Labels | None:
    """The labels that folders' names give; None if no name tells what is normal."""
    filled = tree.filled(folder)
    normal, abnormal = _named(filled, NORMAL_NAMES), _named(filled, ABNORMAL_NAMES)
    if normal is None and abnormal is None:
        normal, abnormal = _beginning(filled, NORMAL_NAMES), _beginning(filled, ABNORMAL_NAMES)
        if normal is None or abnormal is None:
            return None
    if normal is None and (abnormal is None or not tree.images(folder)):
        return None
    others = tuple(f.name for f in filled if f not in (normal, abnormal))
    by_type = abnormal is None and bool(others)
    mask = _masks_of(tree, folder, [f for f in filled if f != normal])
    nested = any(tree.count(f) > len(tree.images(f)) for f in (normal, abnormal) if f is not None)
    return Labels(
        normal="." if normal is None else normal.name,
        abnormal="." if by_type else None if abnormal is None else abnormal.name,
        mask=mask.name if mask is not None and (by_type or abnormal is not None) else None,
        recursive=by_type or (nested and not (normal is None and others)),
        left=() if by_type else others,
    )


def _masks_of(tree: Tree, folder: Path, defective: Sequence[Path]) -> Path | None:
    """The folder without photographs in which most is named as defective images; None if nothing is."""
    stems = {image.stem.lower() for kind in defective for image in tree.images(kind, recursive=True)}
    named: Counter[Path] = Counter()
    for place in (f for f in folders_in(folder) if not tree.count(f)):
        inside = (path for path in tree.everything if place in path.parents)
        named[place] = len(stems & {MASK_ENDING.sub(r"\1", path.stem).lower() for path in inside})
    best = named.most_common(1)
    return best[0][0] if best and best[0][1] else None


def _with_masks_that_fit(tree: Tree, labels: Labels, classes: bool) -> Labels:
    """The labels, without the folder of masks if it cannot be told whose they are."""
    block = _block(tree.root, labels) | {"class_folders": classes, "exclude": list(tree.patterns) or None}
    try:
        FolderDataset(FolderOptions.model_validate({k: v for k, v in block.items() if k != "type"})).records()
    except DataError:
        return replace(labels, mask=None)
    return labels


def labelled(tree: Tree, labels: Labels) -> Layout:
    """The layout of a folder with these labels."""
    folder, labels = tree.root, _with_masks_that_fit(tree, labels, classes=False)
    normal, abnormal = labels.images(tree, folder)
    found = [f"{len(normal)} images in '{labels.normal}', taken as normal (with unknown mistakes)."]
    found += _tested(labels, abnormal, folder)
    block, places = _block(folder, labels), _places([folder], labels)
    return Layout(block, found, _trained(normal, abnormal), probed(normal), *places)


def _tested(labels: Labels, abnormal: Sequence[Path], folder: Path) -> list[str]:
    if not labels.abnormal:
        return []
    types = sorted({p.relative_to(folder).parts[0] for p in abnormal})
    text = ", ".join(f"'{name}'" for name in types)
    each = ", each folder a type of defect" if len(types) > 1 else ""
    found = [
        f"{len(abnormal)} images in {text}, taken as defective{each}: they and 40 % of the normal images are kept "
        "for the test."
    ]
    if labels.abnormal == ".":
        found.append("If they are not defects, take `abnormal` and `recursive` out of the dataset.")
    if labels.mask is not None:
        found.append(f"Masks of the defects in '{labels.mask}'.")
    if labels.left:
        found.append(f"Folders that are left alone: {', '.join(labels.left)}.")
    return found


def _block(folder: Path, labels: Labels) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "folder", "path": str(folder.resolve()), "normal": labels.normal}
    given = {"abnormal": labels.abnormal, "mask": labels.mask, "recursive": labels.recursive}
    return block | {key: value for key, value in given.items() if value}


def _places(folders: Sequence[Path], labels: Labels) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """The folders of images and those of masks."""
    used = [name for name in (labels.normal, labels.abnormal) if name]
    masks = [labels.mask] if labels.mask else []
    return tuple(f / name for f in folders for name in used), tuple(f / name for f in folders for name in masks)


def _trained(normal: Sequence[Path], abnormal: Sequence[Path]) -> int:
    return len(normal) - max(1, round(0.4 * len(normal))) if abnormal else len(normal)


def labelled_classes(tree: Tree, folders: Sequence[Path], labels: Labels) -> Layout:
    """The layout of folders that are classes, each with the same labels."""
    labels = _with_masks_that_fit(tree, labels, classes=True)
    held = {f: labels.images(tree, f) for f in folders}
    text = ", ".join(f"{f.name} ({len(normal)} normal, {len(bad)} defective)" for f, (normal, bad) in held.items())
    found = [f"{len(held)} folders, each taken as a class (a product type) of its own: {text}."]
    found.append(f"Images in '{labels.normal}' are taken as normal (with unknown mistakes).")
    if labels.abnormal:
        place = "the folders beside it" if labels.abnormal == "." else f"'{labels.abnormal}'"
        found.append(
            f"Those in {place} are taken as defective: they and 40 % of the normal images are kept for the test."
        )
    if labels.mask:
        found.append(f"Masks of the defects in '{labels.mask}'.")
    images = [image for normal, _ in held.values() for image in normal]
    smallest = min(_trained(normal, bad) for normal, bad in held.values())
    block = _block(tree.root, labels) | {"class_folders": True}
    # The dataset takes every folder as a class, also one of masks beside them.
    return Layout(block, found, smallest, probed(images), (tree.root,), _places(folders, labels)[1])


def _named(folders: Sequence[Path], names: frozenset[str]) -> Path | None:
    return next((f for f in folders if is_called(f.name, names)), None)


def _beginning(folders: Sequence[Path], names: frozenset[str]) -> Path | None:
    """The one folder whose name begins with one of the names, as in `ok_front` and `def_front`."""
    found = [folder for folder in folders if begins_with(folder.name, names)]
    return found[0] if len(found) == 1 else None
