"""The command that runs the spec of a run directory once more, into the same directory."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path


def named(run: Path) -> Path:
    """The directory by a path that ends with its name, as "." and ".." do not."""
    return run if run.name not in ("", "..") else run.resolve()


def run_again(run: Path, name: str, options: Sequence[str] = ()) -> str:
    """The command as it is typed into a shell.

    `name` is that of the run's spec, by which its directory was called; `options` are words of more options.
    """
    run = named(run)
    if run.name != name and not options:
        options = ["--set", f"name={run.name}"]
    folder = [] if run.parent == Path("runs") else ["--runs-dir", str(run.parent)]
    return shlex.join(["meds", "run", str(run / "spec.yaml"), *options, *folder])
