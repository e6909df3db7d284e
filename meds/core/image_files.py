"""Finds image files: which files of a folder count, which are left out, and which mask belongs to which image."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from meds.core.errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp"})
OTHER_SUFFIXES = frozenset(
    {".heic", ".heif", ".avif", ".gif", ".jp2", ".jxl", ".ppm", ".pgm", ".tga", ".dng", ".cr2", ".nef", ".arw", ".raw"}
)
MASK_ENDING = re.compile(
    r"(.+?)([-_](?:masks?|labels?|gt|ground_?truth|seg|segmentation|annotations?))$", re.IGNORECASE
)
_HIDDEN = (".", "__MACOSX")
# In each folder of pictures that `meds predict` draws. There and not above it, so that folders of the user beside it
# are never taken for its own, and pictures that were moved or copied are still known.
DRAWN = "drawn-by-meds.txt"
EXCLUDE = (
    "Patterns of images to leave out, capitals or not: `*_mask.*` by their name, or, with a `/` in it as in "
    "`labels/*`, by the end of their path below `path`; `*` stands for any letters, `/` among them."
)


def list_images(folder: Path, recursive: bool = False) -> list[Path]:
    """Image files of a folder (of its sub-folders too if `recursive`), sorted by path.

    A file counts by its suffix, in either case. Hidden files and folders (".…") are skipped. Links to folders are
    followed, but not back to a folder around this one; a folder that is reached in several ways is listed once. What
    `meds predict` drew into folders below this one is no image; this folder itself may be such a one.
    Raises DataError if there is no such folder, it cannot be listed, or a name cannot be written as text.
    """
    if not folder.is_dir():
        raise DataError(f"{printable(folder)}: there is no such folder; check the path.")
    check_name(folder)
    found: list[Path] = []
    for parent, names in _walk(folder, recursive):
        images = [Path(parent, name) for name in names if is_image(name)]
        for path in images:
            check_name(path)
        found += images
    return sorted(found)


def count_suffixes(folder: Path, wanted: frozenset[str]) -> dict[str, int]:
    """How many files of a folder and those in it have each of these suffixes, in small letters, commonest first."""
    suffixes = (os.path.splitext(name)[1].lower() for _, names in _walk(folder, True) for name in names)  # noqa: PTH122
    return dict(Counter(suffix for suffix in suffixes if suffix in wanted).most_common())


def holds_other_files_alone(folder: Path) -> bool:
    """Whether a folder and those in it hold files, and none of them is an image of any format."""
    names = [name for _, found in _walk(folder, True) for name in found if not name.startswith(".")]
    suffixes = {os.path.splitext(name)[1].lower() for name in names}  # noqa: PTH122
    return bool(names) and suffixes.isdisjoint(IMAGE_SUFFIXES | OTHER_SUFFIXES)


def list_wanted(folder: Path, recursive: bool, root: Path, exclude: Sequence[str] | None) -> list[Path]:
    """The images of a folder as `list_images` finds them, without those that `exclude` leaves out of `root`."""
    return [path for path in list_images(folder, recursive) if not excluded(path, root, exclude)]


def _walk(folder: Path, recursive: bool) -> Iterator[tuple[str, list[str]]]:
    """Each folder with the names in it; links to folders last, so that a folder is listed where it really lies."""

    def stop(error: OSError) -> None:
        place = printable(Path(error.filename))
        raise DataError(f"{place}: cannot be listed ({error.strerror}); check its permissions.") from error

    # A link back to a folder around this one must not bring in what lies beside it.
    seen = {str(parent) for parent in Path(os.path.realpath(folder)).parents}
    waiting = [str(folder)]
    while waiting:
        for parent, folders, names in os.walk(waiting.pop(0), onerror=stop):
            real = os.path.realpath(parent)
            folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            # Of the names that are known here already: asking for the file would cost every folder a look.
            if DRAWN in names and parent != str(folder):
                folders.clear()
                continue
            inside = [os.path.join(parent, name) for name in folders]  # noqa: PTH118
            waiting += [path for path in inside if os.path.islink(path)]  # noqa: PTH114
            yield parent, names


def is_drawn(folder: Path) -> bool:
    """Whether `meds predict` drew the pictures in a folder."""
    return os.path.exists(os.path.join(folder, DRAWN))  # noqa: PTH110, PTH118 - False too where nothing may be looked at


def check_name(path: Path) -> None:
    """DataError for a path that cannot be written as text, which specs, tables and reports would need."""
    if "\r" in str(path):
        raise DataError(f"{printable(path)}: the name holds a carriage return, which no table can hold; rename it.")
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{printable(path)}: the name is not text in UTF-8 (as from an archive of an old system); rename it."
        ) from error


def printable(path: Path) -> str:
    """A path as text for a message, on one line: what is no text in UTF-8 and what cannot be seen is escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return one_line(text)


def one_line(text: str) -> str:
    """Text whose line breaks and other invisible signs are escaped."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in a folder, sorted.

    Hidden ones (".…"), what macOS packs beside them, and pictures of `meds predict` are skipped.
    """
    inside = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not entry.name.startswith(_HIDDEN)]
    return [entry for entry in inside if not is_drawn(entry)]


def folder_called(folder: Path | None, *names: str) -> Path | None:
    """The folder in `folder` that has one of the names, capitals or not; of several, by the order of the names."""
    if folder is None or not folder.is_dir():
        return None
    inside = folders_in(folder)
    for name in names:
        alike = [entry for entry in inside if entry.name.lower() == name.lower()]
        if alike:
            return next((entry for entry in alike if entry.name == name), alike[0])
    return None


def excluded(path: Path, root: Path, patterns: Sequence[str] | None) -> bool:
    """Whether one of the patterns of an option `exclude` (see EXCLUDE) matches an image of the folder `root`."""
    if not patterns:
        return False
    # Not by `relative_to`, which would take longer than everything else on a folder of many thousand images.
    text, start = path.as_posix(), "" if root == Path() else f"{root.as_posix().removesuffix('/')}/"
    whole = f"/{text[len(start) :] if text.startswith(start) else path.name}".lower()
    name = whole.rpartition("/")[2]
    return any(
        fnmatchcase(whole, f"*/{pattern.lower()}") if "/" in pattern else fnmatchcase(name, pattern.lower())
        for pattern in patterns
    )


def masks_by_image(folder: Path, recursive: bool = False) -> dict[str, Path]:
    """Mask files by the image they belong to: its path below `folder`, with "/" and without suffix.

    `<stem>_mask` (or with another of the endings of MASK_ENDING) and `<stem>` both belong to the image `<stem>`; the
    first wins where there are both. Raises DataError if there is no such folder.
    """
    paths = {path.relative_to(folder).with_suffix("").as_posix(): path for path in list_images(folder, recursive)}
    ends = [(match, path) for name, path in paths.items() if (match := MASK_ENDING.match(name))]
    # Of several endings, `_mask` before all others.
    ends.sort(key=lambda end: end[0][2].lower() == "_mask")
    return paths | {match[1]: path for match, path in ends}


def is_image(name: str) -> bool:
    """Whether a file of that name counts as an image: a known suffix in either case, not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122
