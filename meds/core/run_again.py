"""The command that runs the spec of a run directory once more, into the same directory."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path


def named(run: Path) -> Path:
    """The directory by a path that ends with its name, as "." and ".." do not."""
    return run if run.name not in ("", "..") else run.resolve()


def folder_option(runs: Path) -> list[str]:
    """The words that name the folder of the run directories; none for the default."""
    return [] if runs == Path("runs") else ["--runs-dir", str(runs)]


def run_again(run: Path, spec_name: str, name: str | None = None, options: Sequence[str] = ()) -> str:
    """The command as it is typed into a shell.

    `spec_name` is the name in the run's spec; `name` what the new run is to be called, which is the directory's name if
    nothing else is said; `options` are words of more options.
    """
    run = named(run)
    name = name or run.name
    renamed = [] if name == spec_name else ["--set", f"name={name}"]
    return shlex.join(["meds", "run", str(run / "spec.yaml"), *renamed, *options, *folder_option(run.parent)])
