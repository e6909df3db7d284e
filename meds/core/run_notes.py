"""What a home remembers of its runs, so that it can tell what none uses: where each lay, and what it used there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meds.core import files
from meds.core.errors import ResourceError

_DAMAGED = (ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class RunNote:
    """That a run lay in a folder and used artifacts and features of these names.

    `uses` is None where the note does not say what, and the folder does not either. `missing` is whether that run is
    not there now: its folder was moved or deleted, cannot be read, or holds another run.
    """

    file: Path
    run: Path
    uses: frozenset[str] | None
    missing: bool

    def may_use(self, name: str) -> bool:
        """Whether the run uses an artifact or features, or might."""
        return self.uses is None or name in self.uses


def remember(home: Path, run: Path, state: Mapping[str, Any]) -> None:
    """Note that a folder holds the run of this state (run.json).

    Other notes of the folder stay: that run may have been moved, and still need what it used.
    """
    place, path = str(run.resolve()), _file(home, run, _uses(state))
    if not path.is_file():
        files.write_json(path, {"run": place, "uses": sorted(_uses(state))})
    # Earlier versions had notes of this name, which do not say what the run used.
    (home / "runs" / f"{files.fingerprint(place)[:16]}.json").unlink(missing_ok=True)


def remember_instead(home: Path, run: Path, state: Mapping[str, Any]) -> None:
    """Note that a run of this state takes the place of the one that the folder holds until now, if it holds any."""
    before = _state_in(run)
    remember(home, run, state)
    if before is not None and _uses(before) != _uses(state):
        _file(home, run, _uses(before)).unlink(missing_ok=True)


def remember_opened(run: Path, state: Mapping[str, Any]) -> None:
    """Note where a run lies that a command has opened: it may have been moved.

    A home that is gone or takes no writes, and a state that is damaged, hinder nobody from reading the run.
    """
    with suppress(OSError, ResourceError, *_DAMAGED):
        home = Path(state["home"])
        if home.is_dir():
            remember(home, run, state)


def read_notes(home: Path) -> list[RunNote]:
    """All notes of a home, by folder of the run; whatever run lies in such a folder now is noted too."""
    for run in {note.run for note in _read(home)}:
        state = _state_in(run)
        if state is not None:
            with suppress(OSError, ResourceError):
                remember(home, run, state)
    return sorted(_read(home), key=lambda note: (str(note.run), note.file))


def _read(home: Path) -> list[RunNote]:
    notes = []
    for file in (home / "runs").glob("*.json"):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            run, noted = Path(content["run"]), frozenset(content["uses"]) if "uses" in content else None
        except (OSError, *_DAMAGED):
            continue
        state = _state_in(run)
        found = None if state is None else _uses(state)
        notes.append(RunNote(file, run, found if noted is None else noted, found is None or noted not in (None, found)))
    return notes


def _file(home: Path, run: Path, uses: frozenset[str]) -> Path:
    """The note's place, named by what it says: a folder may have held several runs, all but one of them moved."""
    return home / "runs" / f"{files.fingerprint([str(run.resolve()), sorted(uses)])[:16]}.json"


def _uses(state: Mapping[str, Any]) -> frozenset[str]:
    """Names of the artifacts and of the features that a run.json tells of."""
    return frozenset([state.get("feature_cache", ""), *(row["fingerprint"] for row in state["stages"])])


def _state_in(run: Path) -> dict[str, Any] | None:
    """The run.json of a folder, None if there is none that says what the run uses."""
    try:
        state: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
        _uses(state)
    except (OSError, *_DAMAGED):
        return None
    return state
