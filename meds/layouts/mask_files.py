"""Finds the images of a folder that look like masks of defects, so that nothing is trained on them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from meds.core.folder_names import MASK_NAMES
from meds.core.image_files import excluded, folders_in, list_images, list_wanted

ENDING = re.compile(r"(.+?)([-_](?:masks?|labels?|gt|ground_?truth))$", re.IGNORECASE)
LABEL_NAMES = frozenset({"label", "labels"})
IMAGE_NAMES = frozenset({"image", "images", "img", "imgs"})


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
    """Patterns for files that are named as another image of their folder with an ending for masks."""
    stems = _stems(images)
    found = [(image, ENDING.match(image.stem)) for image in images]
    return [f"*{match[2]}.*" for image, match in found if match and match[1].lower() in stems[image.parent]]


def _folder_patterns(folder: Path, images: Sequence[Path]) -> list[str]:
    """Patterns for folders that are called masks, or labels where an image elsewhere goes with what they hold."""
    inside: dict[Path, list[Path]] = defaultdict(list)
    stems, names = _stems(images), MASK_NAMES | LABEL_NAMES
    called = {parent: _parents_called(parent, folder, names) for parent in stems}
    for image in images:
        for parent in called[image.parent]:
            inside[parent].append(image)
    return [
        f"{place.name}/*"
        for place, held in inside.items()
        if place.name.lower() in MASK_NAMES or _go_with_images(place, held, stems)
    ]


def _parents_called(folder: Path, root: Path, names: frozenset[str]) -> list[Path]:
    """A folder and those around it, below the root, that have one of the names."""
    around = [folder, *folder.parents][: len(folder.relative_to(root).parts)]
    return [place for place in around if place.name.lower() in names]


def _go_with_images(place: Path, held: Sequence[Path], stems: dict[Path, set[str]]) -> bool:
    """Whether most images of a folder are named as images beside it, or in a folder of images beside it."""
    beside = {
        stem
        for folder, names in stems.items()
        if folder == place.parent or (folder.parent == place.parent and folder.name.lower() in IMAGE_NAMES)
        for stem in names
    }
    named = [ENDING.sub(r"\1", image.stem).lower() in beside for image in held]
    return 2 * sum(named) > len(named)


def _stems(images: Sequence[Path]) -> dict[Path, set[str]]:
    """The names of the images by folder, without suffix and capitals."""
    stems: dict[Path, set[str]] = defaultdict(set)
    for image in images:
        stems[image.parent].add(image.stem.lower())
    return stems
