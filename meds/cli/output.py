"""Where a command writes what it was told to write."""

from __future__ import annotations

from pathlib import Path

from meds.core.errors import UserError


def a_file(path: Path) -> Path:
    """The path of an option `--output` that names a file; UserError if a folder stands there."""
    if path.is_dir():
        raise UserError(f"--output {path} is a folder; give the name of a file in it.")
    return path
