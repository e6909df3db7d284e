"""The top modules and packages that a distribution brings, as far as its installation tells."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.machinery import SOURCE_SUFFIXES
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

GROUP = "meds"
_NO_CODE_OF_IT = {"conftest", "docs", "examples", "noxfile", "setup", "test", "tests"}
"""What lies beside the modules in many packages and their folders, and is no part of a plugin."""


def top_modules(package: str) -> set[str]:
    """Names of the top modules and packages of an installed distribution; none if there is no such distribution.

    From its list of files, its `top_level.txt`, its entry points of meds, and for an editable installation from the
    folder that it puts on Python's path.
    """
    if not package:
        return set()
    try:
        found = distribution(package)
    except (PackageNotFoundError, ValueError):
        return set()
    names = {*_of_files(found), *(found.read_text("top_level.txt") or "").split()}
    for folder in _added_folders(found):
        names |= set(_of_folder(folder))
    points = {point.value for point in found.entry_points if point.group == GROUP}
    hooks = {value.partition(":")[0].strip().partition(".")[0] for value in points}
    return {name for name in (names - _NO_CODE_OF_IT) | hooks if name.isidentifier()}


def inner_modules(package: str, top: str) -> set[str]:
    """Names of the modules and packages that an installed distribution has listed in a top package."""
    try:
        files = distribution(package).files or ()
    except (PackageNotFoundError, ValueError):
        return set()
    inside = {file.parts[1] for file in files if len(file.parts) > 1 and file.parts[0] == top}
    names = {name.removesuffix(".py") for name in inside}
    return {name for name in names if name.isidentifier() and name != "__pycache__"}


def _of_files(found: Distribution) -> Iterator[str]:
    """Tops of the Python files that the installer has listed."""
    for file in found.files or ():
        if file.suffix in SOURCE_SUFFIXES and not file.name.startswith("__editable__"):
            yield file.parts[0] if len(file.parts) > 1 else file.stem


def _added_folders(found: Distribution) -> Iterator[Path]:
    """Folders that a .pth file of the distribution puts on Python's path."""
    for file in found.files or ():
        path = Path(str(found.locate_file(file)))
        if file.suffix == ".pth" and path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            folders = [Path(line.strip()) for line in lines if line.strip() and not line.startswith(("#", "import"))]
            yield from (folder for folder in folders if folder.is_dir())


def _of_folder(folder: Path) -> Iterator[str]:
    """The modules and packages in a folder of source code."""
    for path in folder.iterdir():
        if path.suffix in SOURCE_SUFFIXES or (path / "__init__.py").is_file():
            yield path.stem
