"""Recognises how a folder of images is laid out: which dataset reads it, and what was assumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meds.core.errors import DataError
from meds.core.folder_names import ABNORMAL_NAMES, MASK_NAMES, NORMAL_NAMES
from meds.core.images import list_images, size_of

PROBED_IMAGES = 200


@dataclass(frozen=True)
class Layout:
    """The dataset block of a spec, what was found and assumed, and how many training images the smallest class has."""

    dataset: dict[str, Any]
    found: list[str]
    training_images: int
    sizes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Labelled:
    """A folder in which names tell normal from defective images: names of its folders, "." for the folder itself."""

    normal: str
    abnormal: str | None
    mask: str | None
    recursive: bool = False
    left: tuple[str, ...] = ()

    def images(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """The normal and the defective images of such a folder, as the dataset reads them."""
        places = {name: folder / name for name in (self.normal, self.abnormal, self.mask) if name}
        found = {name: list_images(place, self.recursive) for name, place in places.items()}

        def of(name: str | None) -> list[Path]:
            inner = [p for p in places.values() if name and p != places[name] and p.is_relative_to(places[name])]
            return [image for image in found.get(name or "", []) if not any(map(image.is_relative_to, inner))]

        return of(self.normal), of(self.abnormal)


def recognise(folder: Path) -> Layout:
    """The layout of a folder.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder.")
    path = str(folder.resolve())
    below = _folders(folder)
    mvtec = [f for f in (folder, *below) if (f / "train").is_dir() and any(map(list_images, _folders(f / "train")))]
    if mvtec:
        return _mvtec(path, mvtec)
    labels = _labels(folder)
    if labels is not None:
        return _labelled(path, folder, labels)
    if (folder / "train").is_dir() and list_images(folder / "train"):
        return _flat_training(folder, folder / "train", below)
    direct = list_images(folder)
    if direct:
        return Layout({"type": "folder", "path": path}, _unlabelled(direct, below), len(direct), sizes(direct))
    filled = [f for f in below if _count(f)]
    if not filled:
        raise DataError(f"{folder}: holds no image, and no folder in it does.")
    if len(filled) > 1:
        return _classes(path, filled)
    images = list_images(folder, recursive=True)
    text = f"{len(images)} images in the folder '{filled[0].name}', with no labels."
    return Layout({"type": "folder", "path": path, "recursive": True}, [text], len(images), sizes(images))


def _mvtec(path: str, classes: Sequence[Path]) -> Layout:
    trained = {f.resolve().name: list_images(f / "train", recursive=True) for f in classes}
    text = ", ".join(f"{name} ({len(listed)} training images)" for name, listed in trained.items())
    found = [f"The layout of MVTec AD (train, test, ground_truth), {len(trained)} class(es): {text}."]
    if any((f / "test").is_dir() for f in classes):
        masks = any((f / "ground_truth").is_dir() for f in classes)
        found.append("The test images are measured against their folders' names" + (" and masks." if masks else "."))
    images = [image for listed in trained.values() for image in listed]
    return Layout({"type": "mvtec", "path": path}, found, min(map(len, trained.values())), sizes(images))


def _labels(folder: Path) -> _Labelled | None:
    """The labels that folders' names give; None if no name tells what is normal."""
    filled = [f for f in _folders(folder) if _count(f)]
    normal, abnormal, mask = (_named(filled, names) for names in (NORMAL_NAMES, ABNORMAL_NAMES, MASK_NAMES))
    if normal is None and (abnormal is None or not list_images(folder)):
        return None
    others = tuple(f.name for f in filled if f not in (normal, abnormal, mask))
    by_type = abnormal is None and bool(others)
    nested = any(_count(f) > len(list_images(f)) for f in (normal, abnormal) if f is not None)
    return _Labelled(
        normal="." if normal is None else normal.name,
        abnormal="." if by_type else None if abnormal is None else abnormal.name,
        mask=mask.name if mask is not None and (by_type or abnormal is not None) else None,
        recursive=by_type or (nested and not (normal is None and others)),
        left=() if by_type else others,
    )


def _labelled(path: str, folder: Path, labels: _Labelled) -> Layout:
    normal, abnormal = labels.images(folder)
    found = [f"{len(normal)} images in '{labels.normal}', taken as normal (with unknown mistakes)."]
    found += _tested(labels, abnormal, folder)
    return Layout(_block(path, labels), found, _trained(normal, abnormal), sizes(normal))


def _tested(labels: _Labelled, abnormal: Sequence[Path], folder: Path) -> list[str]:
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


def _block(path: str, labels: _Labelled) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "folder", "path": path, "normal": labels.normal}
    given = {"abnormal": labels.abnormal, "mask": labels.mask, "recursive": labels.recursive}
    return block | {key: value for key, value in given.items() if value}


def _trained(normal: Sequence[Path], abnormal: Sequence[Path]) -> int:
    return len(normal) - max(1, round(0.4 * len(normal))) if abnormal else len(normal)


def _flat_training(folder: Path, train: Path, below: Sequence[Path]) -> Layout:
    images = list_images(train)
    block = {"type": "folder", "path": str(train.resolve()), "class_name": folder.resolve().name or "images"}
    left = [f.name for f in below if f != train and _count(f)]
    found = [f"{len(images)} images with no labels in 'train'; some of them may be defects."]
    if left:
        found.append(f"Folders that are left alone, as they say of no image what it is: {', '.join(left)}.")
    return Layout(block, found, len(images), sizes(images))


def _classes(path: str, folders: Sequence[Path]) -> Layout:
    labels = [_labels(f) for f in folders]
    if labels[0] is not None and all(label == labels[0] for label in labels):
        return _labelled_classes(path, folders, labels[0])
    held = {f: list_images(f, recursive=True) for f in folders}
    images = [image for listed in held.values() for image in listed]
    text = ", ".join(f"{f.name} ({len(listed)})" for f, listed in held.items())
    found = [
        f"{len(held)} folders of images, each taken as a class (a product type) of its own: {text}.",
        "If they are one class, write `recursive: true` in place of `class_folders: true`.",
    ]
    if any(labels):
        found.append("Folders inside them are not taken as labels, because they are not called the same in each.")
    nested = any(len(listed) != len(list_images(f)) for f, listed in held.items())
    block = {"type": "folder", "path": path, "class_folders": True, **({"recursive": True} if nested else {})}
    return Layout(block, found, min(map(len, held.values())), sizes(images))


def _labelled_classes(path: str, folders: Sequence[Path], labels: _Labelled) -> Layout:
    held = {f: labels.images(f) for f in folders}
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
    return Layout(_block(path, labels) | {"class_folders": True}, found, smallest, sizes(images))


def _unlabelled(images: Sequence[Path], below: Sequence[Path]) -> list[str]:
    found = [f"{len(images)} images with no labels; some of them may be defects."]
    left = [f.name for f in below if _count(f)]
    if left:
        found.append(f"Folders that are left alone: {', '.join(left)} (`recursive: true` takes their images too).")
    return found


def sizes(images: Sequence[Path]) -> list[str]:
    """The sizes of the first images as text, the commonest first; unreadable ones are counted."""
    counted: Counter[str] = Counter()
    for path in images[:PROBED_IMAGES]:
        try:
            height, width = size_of(path)
        except DataError:
            counted["unreadable"] += 1
        else:
            counted[f"{width}x{height}"] += 1
    return [text for text, _ in counted.most_common()]


def _folders(folder: Path) -> list[Path]:
    return [f for f in sorted(folder.iterdir()) if f.is_dir() and not f.name.startswith(".")]


def _named(folders: Sequence[Path], names: frozenset[str]) -> Path | None:
    return next((f for f in folders if f.name.lower() in names), None)


def _count(folder: Path) -> int:
    return len(list_images(folder, recursive=True))
