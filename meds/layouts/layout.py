"""What `meds init` says of a folder: the dataset block of its spec, what was found and assumed."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from meds.core.errors import DataError
from meds.core.images import FULL_BITS, largest_of_16_bits, pages, size_of
from meds.layouts.mask_files import Tree, evenly

PROBED_IMAGES = 200
_OPENED_IMAGES = 10
# What most cameras have whose images of 16 bits are dark; a value that takes more bits would stop the run.
_CAMERA_BITS = 12


@dataclass(frozen=True)
class Probed:
    """What some images of a folder are like: the sizes as text, the commonest first; whether all can be read.

    `bits` is how many of 16 the grey ones use; `paged` whether some hold several pages.
    """

    sizes: list[str] = field(default_factory=list)
    readable: bool = True
    bits: int = FULL_BITS
    paged: bool = False


@dataclass(frozen=True)
class Layout:
    """The dataset block of a spec, what was found and assumed, and how many training images the smallest class has.

    The dataset takes images from the folders `reads`, and masks from `masks`.
    """

    dataset: dict[str, Any]
    found: list[str]
    training_images: int
    probed: Probed = field(default_factory=Probed)
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


def probed(images: Sequence[Path]) -> Probed:
    """What some of these images are like, evenly taken from all."""
    counted: Counter[str] = Counter()
    unreadable = False
    for path in evenly(images, PROBED_IMAGES):
        try:
            height, width = size_of(path)
        except DataError:
            unreadable = True
        else:
            counted[f"{width}x{height}"] += 1
    few = evenly(images, _OPENED_IMAGES)
    return Probed([text for text, _ in counted.most_common()], not unreadable, _bits(few), any(map(_paged, few)))


def _paged(path: Path) -> bool:
    try:
        return pages(path) > 1
    except DataError:
        return False


def _bits(images: Sequence[Path]) -> int:
    """How many bits are used, as far as images of 16 bits tell."""
    largest = 0
    for path in images:
        with contextlib.suppress(DataError):
            largest = max(largest, largest_of_16_bits(path) or 0)
    return _CAMERA_BITS if 0 < largest < 2**_CAMERA_BITS else FULL_BITS
