"""The digest of a plugin's source code, which tells a package under development from its former self."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

from meds.core.distribution_modules import inner_modules, top_modules

_SHARED = {"meds", "torch", "torchvision", "timm", "pydantic", "numpy", "scipy", "sklearn"}
"""What plugins of meds itself are made of: its version counts for none of them, and so for nobody's."""


def source_digest(load: str, package: str = "", classes: Iterable[type] = ()) -> str:
    """sha256 (hex) over the code that "package.module:Class" is made of; "" if none of it can be found.

    These are the Python files of all top modules and packages of the distribution `package`, of that of the class, and
    of those that the `classes` (implementation and options) inherit from. What they inherit from another installed
    distribution counts with its version. Code that is only imported from elsewhere does not count.
    """
    own = {_top(load.partition(":")[0]), *top_modules(package)}
    parts: list[str] = []
    for top in {_top(base.__module__) for found in classes for base in found.__mro__} - own - _SHARED:
        if top in sys.stdlib_module_names:
            continue
        version = _installed(top, tuple(sys.path))
        if version is None:
            own.add(top)
        else:
            parts.append(version)
    modules = [load.partition(":")[0], *(base.__module__ for found in classes for base in found.__mro__)]
    for whole in {part for top in own for part in _within(top, package, modules)}:
        parts += [f"{whole}/{name} {_file_digest(path)}" for name, path in _files(whole)]
    return hashlib.sha256("\0".join(sorted(parts)).encode()).hexdigest() if parts else ""


def _within(top: str, package: str, modules: Iterable[str]) -> set[str]:
    """A top package itself; of one that several distributions share, the parts in it that this one brings."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return {top}
    if spec is None or spec.origin is not None or not spec.submodule_search_locations:
        return {top}
    named = {".".join(module.split(".")[:2]) for module in modules if module.startswith(f"{top}.")}
    return named | {f"{top}.{name}" for name in inner_modules(package, top)}


def _top(module: str) -> str:
    return module.partition(".")[0]


def _where(top: str) -> list[Path]:
    """The folders of a top package, or the file of a top module; empty if there is no such file."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # a module that was made in memory
        return []
    if spec is None:
        return []
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    return folders or [path for path in (Path(spec.origin or ""),) if path.is_file()]


def _files(top: str) -> Iterator[tuple[str, Path]]:
    """The Python files of a top module or package, with their names within it."""
    for place in _where(top):
        if place.is_file():
            yield "", place
        else:
            yield from ((path.relative_to(place).as_posix(), path) for path in place.rglob("*.py"))


def _file_digest(path: Path) -> str:
    about = path.stat()
    return _digest_of(path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=10_000)
def _digest_of(path: Path, _changed: int, _size: int) -> str:
    """A run asks once for each of its stages; the time and the size tell an edited file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@lru_cache(maxsize=1000)
def _installed(top: str, _path: tuple[str, ...]) -> str | None:
    """Name and version of the distributions that brought a top module; None if its source has to count.

    That is so if no installer brought it, or if it is imported from elsewhere, as with an editable installation.
    """
    names = sorted(set(_distributions(_path).get(top, ())))
    try:
        found = [distribution(name) for name in names]
    except PackageNotFoundError:  # its folder is named otherwise than its metadata say
        return None
    if not found or not all(_holds(item, top) for item in found):
        return None
    return ", ".join(f"{item.name} {item.version}" for item in found)


@lru_cache(maxsize=4)
def _distributions(_path: tuple[str, ...]) -> dict[str, list[str]]:
    """Top modules and the distributions that brought them: reads the lists of all, which takes half a second."""
    return dict(packages_distributions())


def _holds(found: Distribution, top: str) -> bool:
    if not found.version or found.read_text("RECORD") is None:
        return False
    site = Path(str(found.locate_file("")))
    return all(site.resolve() in place.resolve().parents for place in _where(top))
