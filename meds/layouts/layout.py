"""What `meds init` says of a folder: the dataset block of its spec, what was found and assumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from meds.core.errors import DataError
from meds.core.images import largest_of_16_bits, size_of
from meds.layouts.mask_files import Tree, evenly

PROBED_IMAGES = 200
# Entries of `sizes` that are none.
UNREADABLE, FAINT = "unreadable", "faint"
_OPENED_IMAGES = 10


@dataclass(frozen=True)
class Layout:
    """The dataset block of a spec, what was found and assumed, and how many training images the smallest class has.

    The dataset takes images from the folders `reads`, and masks from `masks`.
    """

    dataset: dict[str, Any]
    found: list[str]
    training_images: int
    sizes: list[str] = field(default_factory=list)
    reads: tuple[Path, ...] = ()
    masks: tuple[Path, ...] = ()


def quoted(names: Sequence[str]) -> str:
    """Names as a list in a sentence."""
    return ", ".join(f"'{name}'" for name in names)


def named_after(dataset: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A dataset block whose one class, if the dataset `folder` reads it as one, has the name of a folder."""
    if dataset["type"] != "folder" or "class_folders" in dataset:
        return dataset
    return dataset | {"class_name": folder.resolve().name or "images"}


def without_masks(layout: Layout, tree: Tree) -> Layout:
    """The layout with an option `exclude` for the images that look like masks, and a sentence about them."""
    hidden = tree.hidden(layout.reads, layout.masks)
    if not hidden:
        return layout
    count = len({path for paths in hidden.values() for path in paths})
    which = ", ".join(f"`{pattern}`" for pattern in hidden)
    verb = "looks like a mask" if count == 1 else "look like masks"
    sentence = f"{count} file{'s' * (count != 1)} {verb} ({which}) and {'is' if count == 1 else 'are'} left out."
    return replace(layout, dataset=layout.dataset | {"exclude": list(hidden)}, found=[*layout.found, sentence])


def sizes(images: Sequence[Path]) -> list[str]:
    """The sizes of some images as text, the commonest first; unreadable and faint ones are counted."""
    counted: Counter[str] = Counter()
    for path in evenly(images, PROBED_IMAGES):
        try:
            height, width = size_of(path)
        except DataError:
            counted[UNREADABLE] += 1
        else:
            counted[f"{width}x{height}"] += 1
    counted[FAINT] = sum(map(_faint, evenly(images, _OPENED_IMAGES)))
    counted = +counted
    return [text for text, _ in counted.most_common()]


def _faint(path: Path) -> bool:
    """Whether an image of 16 bits uses less than a sixteenth of them."""
    try:
        largest = largest_of_16_bits(path)
    except DataError:
        return False
    return largest is not None and largest < 2**12
