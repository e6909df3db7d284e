"""Finds the new images that a command names, and the class of each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from meds.core.errors import UserError
from meds.core.image_files import check_name, is_drawn, list_images, one_line, printable

_SIGNS = "*?["


def find_images(given: Sequence[str]) -> list[Path]:
    """Files, the images in and below folders, and what globs match, each once, in the order given.

    A folder that a glob matches is taken as if it had been named. What `meds predict` drew is left out, and of what a
    glob matches also what is hidden (".…"), unless it is named itself. A file that is named need not exist.
    Raises UserError if there is none, or a name cannot be written as text.
    """
    found: dict[Path, None] = {}
    for text in given:
        try:
            files = _named(text)
        except (OSError, ValueError) as error:
            raise UserError(f"{one_line(text)}: this names no images ({one_line(str(error))}).") from None
        for file in files:
            check_name(file)
            found[file] = None
    if not found:
        raise UserError(f"No images were found in {', '.join(map(one_line, given))}.")
    return list(found)


def class_of(path: Path, given: str | None, names: Sequence[str]) -> str:
    """The class of an image: the one given, the only one, or the one that a folder around it is called like.

    Raises UserError if the class that is given is unknown, or none can be told.
    """
    if given is not None:
        if given not in names:
            raise UserError(f"--class {given}: the run knows {', '.join(names)}.")
        return given
    if len(names) == 1:
        return names[0]
    # Without following links: a folder's name here is what counts.
    for part in reversed(Path(os.path.abspath(path)).parent.parts):  # noqa: PTH100
        if part in names:
            return part
    raise UserError(
        f"{printable(path)}: the run knows {len(names)} classes ({', '.join(names)}) and no folder of this path is "
        "called like one; give --class."
    )


def _named(text: str) -> list[Path]:
    path = Path(text)
    if path.is_dir():
        return list_images(path, recursive=True)
    if any(sign in text for sign in _SIGNS) and not path.exists():
        return list(_matched(path))
    return [path]


def _matched(pattern: Path) -> Iterator[Path]:
    """The files that a glob matches, and the images in and below the folders that it matches."""
    depth = next(i for i, part in enumerate(pattern.parts) if any(sign in part for sign in _SIGNS))
    hidden = any(part.startswith(".") for part in pattern.parts[depth:])

    @cache
    def left_out(place: Path) -> bool:
        """Whether a folder, or one around it below the folder that the glob names, is hidden or holds drawings."""
        if len(place.parts) <= depth:
            return False
        return (not hidden and place.name.startswith(".")) or is_drawn(place) or left_out(place.parent)

    walked: set[Path] = set()
    start = Path(pattern.anchor)
    for place in sorted(start.glob(str(pattern.relative_to(pattern.anchor)))):
        if place.is_dir():
            # `**` matches a folder and then every folder below it.
            if not left_out(place) and walked.isdisjoint(place.parents):
                walked.add(place)
                yield from list_images(place, recursive=True)
        elif place.is_file() and not left_out(place.parent) and (hidden or not place.name.startswith(".")):
            yield place
