"""Finds the images of a folder that look like masks of defects, so that nothing is trained on them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from meds.core.errors import DataError
from meds.core.folder_names import IMAGE_NAMES, LABEL_NAMES, MASK_NAMES
from meds.core.image_files import MASK_ENDING, excluded, folders_in, list_images, list_wanted
from meds.core.images import share_of_two_values

MASK_BEGINNING = re.compile(r"((?:masks?|gt|seg)[-_])(.+)$", re.IGNORECASE)
MASK_WORD = re.compile(r"(?:^|[\W_])(?:masks?|gt|ground_?truth)(?:$|[\W_])|^segmentation|^annotations?$", re.IGNORECASE)
_LOOKED_AT = 4
_TWO_VALUES = 0.95


@dataclass(frozen=True)
class Tree:
    """A folder and what lies in it, without the images that `patterns` say are masks; `everything` is with them."""

    root: Path
    everything: tuple[Path, ...]
    patterns: tuple[str, ...] = ()
    _listed: dict[tuple[Path, bool], list[Path]] = field(default_factory=dict, compare=False, repr=False)

    def images(self, folder: Path, recursive: bool = False) -> list[Path]:
        """The images of a folder in the tree, as a dataset with these patterns as `exclude` reads them."""
        key = (folder, recursive)
        if key not in self._listed:
            self._listed[key] = list_wanted(folder, recursive, self.root, self.patterns)
        return self._listed[key]

    def count(self, folder: Path) -> int:
        """How many images a folder and those in it hold."""
        return len(self.images(folder, recursive=True))

    def filled(self, folder: Path) -> list[Path]:
        """The folders directly in a folder that hold images."""
        return [inside for inside in folders_in(folder) if self.count(inside)]

    def hidden(self, folders: Sequence[Path], masks: Sequence[Path]) -> dict[str, list[Path]]:
        """What each pattern leaves out of some folders, apart from folders that are read as masks."""
        matching = [path for path in self.everything if excluded(path, self.root, self.patterns)]
        found = [p for p in matching if not {*folders}.isdisjoint(p.parents) and {*masks}.isdisjoint(p.parents)]
        left_out = {p: [path for path in found if excluded(path, self.root, [p])] for p in self.patterns}
        return {pattern: paths for pattern, paths in left_out.items() if paths}


def tree_of(folder: Path) -> Tree:
    """A folder as a tree without what looks like masks; with all of it if nothing else is there."""
    images = list_images(folder, recursive=True)
    patterns = {pattern.lower(): pattern for pattern in [*_folder_patterns(folder, images), *_file_patterns(images)]}
    tree = Tree(folder, tuple(images), tuple(patterns.values()))
    return tree if tree.count(folder) else Tree(folder, tuple(images))


def _file_patterns(images: Sequence[Path]) -> list[str]:
    """Patterns for files that are named as another image of their folder with a word for masks before or after it."""
    stems = _stems(images)
    after = [(image, MASK_ENDING.match(image.stem)) for image in images]
    before = [(image, MASK_BEGINNING.match(image.stem)) for image in images]
    return [
        *(f"*{match[2]}.*" for image, match in after if match and match[1].lower() in stems[image.parent]),
        *(f"{match[1]}*" for image, match in before if match and match[2].lower() in stems[image.parent]),
        *_twin_patterns(images),
    ]


def _twin_patterns(images: Sequence[Path]) -> list[str]:
    """Patterns for suffixes of which every file has an image of its name beside it, and looks like a mask itself."""
    suffixes: dict[Path, set[str]] = defaultdict(set)
    by_suffix: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        suffixes[image.with_suffix("")].add(image.suffix.lower())
        by_suffix[image.suffix.lower()].append(image)
    twins = (
        suffix
        for suffix, held in by_suffix.items()
        if all(len(suffixes[image.with_suffix("")]) > 1 for image in held) and look_like_masks(held)
    )
    return [f"*{suffix}" for suffix in twins]


def _folder_patterns(folder: Path, images: Sequence[Path]) -> list[str]:
    """Patterns for folders that are called masks, or like it where an image elsewhere goes with what they hold."""
    inside: dict[Path, list[Path]] = defaultdict(list)
    stems = _stems(images)
    called = {parent: _parents_called(parent, folder) for parent in stems}
    for image in images:
        for parent in called[image.parent]:
            inside[parent].append(image)
    return [f"{place.name}/*" for place, held in inside.items() if _holds_masks(place, held, stems)]


def _holds_masks(place: Path, held: Sequence[Path], stems: dict[Path, set[str]]) -> bool:
    name = place.name.lower()
    if name in MASK_NAMES:
        return True
    beside = {folder: names for folder, names in stems.items() if place.parent in (folder, folder.parent)}
    if name in LABEL_NAMES:
        # As well the name of a product: only what is called images goes with it.
        beside = {f: names for f, names in beside.items() if f == place.parent or f.name.lower() in IMAGE_NAMES}
        return _named_as(held, beside)
    return _named_as(held, beside) and look_like_masks(held)


def _parents_called(folder: Path, root: Path) -> list[Path]:
    """A folder and those around it, below the root, that may hold masks by their names."""
    around = [folder, *folder.parents][: len(folder.relative_to(root).parts)]
    return [place for place in around if place.name.lower() in LABEL_NAMES or MASK_WORD.search(place.name)]


def _named_as(held: Sequence[Path], images: dict[Path, set[str]]) -> bool:
    """Whether most files are named as images of these folders."""
    stems = {stem for names in images.values() for stem in names}
    named = [MASK_ENDING.sub(r"\1", image.stem).lower() in stems for image in held]
    return 2 * sum(named) > len(named)


def look_like_masks(held: Sequence[Path]) -> bool:
    """Whether some of the files, evenly taken, hold almost nothing but two values, as photographs do not."""
    try:
        return all(share_of_two_values(path) > _TWO_VALUES for path in evenly(held, _LOOKED_AT))
    except DataError:
        return False


def evenly(images: Sequence[Path], count: int) -> Sequence[Path]:
    """At most so many of the images, from the first to the last."""
    return images[:: -(-len(images) // count) or 1]


def _stems(images: Sequence[Path]) -> dict[Path, set[str]]:
    """The names of the images by folder, without suffix and capitals."""
    stems: dict[Path, set[str]] = defaultdict(set)
    for image in images:
        stems[image.parent].add(image.stem.lower())
    return stems
