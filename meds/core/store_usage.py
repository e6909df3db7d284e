"""What lies in the store and the feature cache, which runs use it, and removal of what none does."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meds.core.errors import ArtifactError, UserError
from meds.core.feature_cache import folder_bytes
from meds.core.run_notes import RunNote, read_notes
from meds.core.store import Store, read_manifest


@dataclass(frozen=True)
class StoredThing:
    """One artifact or one backbone's features: its kind, folder, bytes and the runs that use it.

    `missing_runs` are the folders of runs that used it, or may have, and are not there any more.
    """

    kind: str
    name: str
    path: Path
    bytes: int
    runs: tuple[str, ...]
    missing_runs: tuple[str, ...]

    @property
    def only_for_missing(self) -> bool:
        """Whether it is kept for nothing but runs that are not there any more."""
        return bool(self.missing_runs) and not self.runs

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            **self.__dict__,
            "path": str(self.path),
            "runs": list(self.runs),
            "missing_runs": list(self.missing_runs),
        }


def usage(home: Path) -> list[StoredThing]:
    """Everything stored under a home, artifacts first."""
    notes = read_notes(home)
    store = Store(home)
    things = [_thing(_kind(path), path, notes) for path in map(store.path, store.fingerprints())]
    for kind, folder in (("unfinished", home / "store" / "work"), ("features", home / "features")):
        things += [_thing(kind, path, notes) for path in sorted(folder.glob("*"))]
    return things


def remove_unused(home: Path) -> list[StoredThing]:
    """Remove what no run uses and return it; what a missing run used stays, because it may only have been moved."""
    unused = [thing for thing in usage(home) if not thing.runs and not thing.missing_runs]
    for thing in unused:
        shutil.rmtree(thing.path, ignore_errors=True)
    return unused


def forget_missing(home: Path) -> list[str]:
    """Keep nothing for runs that are not where they were; returns the folders in which they were."""
    missing = [note for note in read_notes(home) if note.missing]
    for note in missing:
        note.file.unlink(missing_ok=True)
    return _folders(missing)


def _thing(kind: str, path: Path, notes: Sequence[RunNote]) -> StoredThing:
    users = [note for note in notes if note.may_use(path.name)]
    runs, missing_runs = (_folders([n for n in users if n.missing is missing]) for missing in (False, True))
    return StoredThing(kind, path.name, path, folder_bytes(path), tuple(runs), tuple(missing_runs))


def _folders(notes: Sequence[RunNote]) -> list[str]:
    return list(dict.fromkeys(str(note.run) for note in notes))


def _kind(path: Path) -> str:
    try:
        return str(read_manifest(path)["kind"])
    except ArtifactError:
        return "damaged"
    except UserError:
        return "of another version"
