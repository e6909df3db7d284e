"""The digest of a plugin's source code, which tells a package under development from its former self."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path


def source_digest(load: str) -> str:
    """sha256 (hex) over the Python files of the top package (or module) in "package.module:Class"; "" if unknown."""
    top = load.partition(":")[0].partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # a module that was made in memory
        return ""
    if spec is None:
        return ""
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    named = {path.relative_to(folder).as_posix(): path for folder in folders for path in folder.rglob("*.py")}
    if not folders and spec.origin is not None and Path(spec.origin).is_file():
        named = {top: Path(spec.origin)}
    digest = hashlib.sha256()
    for name, path in sorted(named.items()):
        digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest() if named else ""
