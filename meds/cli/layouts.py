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
    """The dataset block of a spec, sentences on what was found and assumed, and the number of training images."""

    dataset: dict[str, Any]
    found: list[str]
    training_images: int
    sizes: list[str] = field(default_factory=list)


def recognise(folder: Path) -> Layout:
    """The layout of a folder.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder.")
    path = str(folder.resolve())
    below = _folders(folder)
    mvtec = [f for f in (folder, *below) if (f / "train").is_dir() and _count(f / "train")]
    if mvtec:
        return _mvtec(path, mvtec)
    named = {name: _named(below, names) for name, names in _KINDS.items()}
    if named["normal"] or named["abnormal"]:
        return _labelled(path, folder, named)
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


_KINDS = {"normal": NORMAL_NAMES, "abnormal": ABNORMAL_NAMES, "mask": MASK_NAMES}


def _mvtec(path: str, classes: Sequence[Path]) -> Layout:
    trained = {f.resolve().name: list_images(f / "train", recursive=True) for f in classes}
    text = ", ".join(f"{name} ({len(listed)} training images)" for name, listed in trained.items())
    found = [f"The layout of MVTec AD (train, test, ground_truth), {len(trained)} class(es): {text}."]
    if any((f / "test").is_dir() for f in classes):
        masks = any((f / "ground_truth").is_dir() for f in classes)
        found.append("The test images are measured against their folders' names" + (" and masks." if masks else "."))
    images = [image for listed in trained.values() for image in listed]
    return Layout({"type": "mvtec", "path": path}, found, len(images), sizes(images))


def _labelled(path: str, folder: Path, named: dict[str, Path | None]) -> Layout:
    normal, abnormal, mask = named["normal"], named["abnormal"], named["mask"]
    direct = list_images(folder)
    if normal is None and not direct:
        assert abnormal is not None
        images = list_images(abnormal, recursive=True)
        text = f"Only '{abnormal.name}' holds images ({len(images)}); they are taken as unlabelled training images."
        return Layout({"type": "folder", "path": path, "recursive": True}, [text], len(images), sizes(images))
    place = "." if normal is None else normal.name
    block: dict[str, Any] = {"type": "folder", "path": path, "normal": place}
    images = direct if normal is None else list_images(normal)
    found = [f"{len(images)} images in '{place}', taken as normal (with unknown mistakes)."]
    count = len(images)
    if abnormal is not None:
        block["abnormal"] = abnormal.name
        count = round(0.6 * len(images))
        found.append(
            f"{_count(abnormal)} images in '{abnormal.name}', taken as defective: they and 40 % of the normal images "
            "are kept for the test."
        )
        if mask is not None:
            block["mask"] = mask.name
            found.append(f"Masks of the defects in '{mask.name}'.")
    return Layout(block, found, count, sizes(images))


def _classes(path: str, folders: Sequence[Path]) -> Layout:
    held = {f: list_images(f, recursive=True) for f in folders}
    images = [image for listed in held.values() for image in listed]
    text = ", ".join(f"{f.name} ({len(listed)})" for f, listed in held.items())
    found = [
        f"{len(held)} folders of images, each taken as a class (a product type) of its own: {text}.",
        "If they are one class, write `recursive: true` in place of `class_folders: true`.",
    ]
    nested = any(len(listed) != len(list_images(f)) for f, listed in held.items())
    block = {"type": "folder", "path": path, "class_folders": True, **({"recursive": True} if nested else {})}
    return Layout(block, found, len(images), sizes(images))


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
