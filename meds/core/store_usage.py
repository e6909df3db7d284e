"""What lies in the store and the feature cache, which runs use it, and removal of what none does."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meds.core.errors import ArtifactError, UserError
from meds.core.feature_cache import folder_bytes
from meds.core.store import Store, read_manifest


@dataclass(frozen=True)
class StoredThing:
    """One artifact or one backbone's features: its kind, folder, bytes and the runs that use it."""

    kind: str
    name: str
    path: Path
    bytes: int
    runs: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**self.__dict__, "path": str(self.path), "runs": list(self.runs)}


def usage(home: Path) -> list[StoredThing]:
    """Everything stored under a home, artifacts first. A run that was deleted counts as not using anything."""
    used, used_features = _used_by(home)
    store = Store(home)
    things = []
    for fingerprint in store.fingerprints():
        path = store.path(fingerprint)
        try:
            kind = str(read_manifest(path)["kind"])
        except ArtifactError:
            kind = "damaged"
        except UserError:
            kind = "of another version"
        things.append(StoredThing(kind, fingerprint, path, folder_bytes(path), tuple(used.get(fingerprint, ()))))
    for folder in sorted((home / "store" / "work").glob("*")):
        runs = tuple(used.get(folder.name, ()))
        things.append(StoredThing("unfinished", folder.name, folder, folder_bytes(folder), runs))
    for folder in sorted((home / "features").glob("*")):
        runs = tuple(used_features.get(folder.name, ()))
        things.append(StoredThing("features", folder.name, folder, folder_bytes(folder), runs))
    return things


def remove_unused(home: Path) -> list[StoredThing]:
    """Remove what no run uses and return it."""
    unused = [thing for thing in usage(home) if not thing.runs]
    for thing in unused:
        shutil.rmtree(thing.path, ignore_errors=True)
    return unused


def _used_by(home: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    used: dict[str, list[str]] = {}
    features: dict[str, list[str]] = {}
    for note in sorted((home / "runs").glob("*.json")):
        try:
            run = Path(json.loads(note.read_text(encoding="utf-8"))["run"])
            state = json.loads((run / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(state, dict):
            continue
        features.setdefault(state.get("feature_cache", ""), []).append(str(run))
        for stage in state.get("stages", []):
            used.setdefault(stage["fingerprint"], []).append(str(run))
    return used, features
