"""`meds store`: what a run uses stays, wherever the run lies, and what none uses can be removed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Finished

from meds.core import files, run_notes, store_usage


class Home:
    """A home with features `net` and made-up runs, each with artifacts of its own."""

    def __init__(self, root: Path) -> None:
        self.path, self.runs = root / "home", root / "runs"
        (self.path / "features" / "net").mkdir(parents=True)

    def run(self, name: str, *artifacts: str) -> Path:
        """What a run leaves behind that made these artifacts."""
        state = {
            "home": str(self.path),
            "feature_cache": "net",
            "stages": [{"fingerprint": artifact} for artifact in artifacts],
        }
        place = self.runs / name
        run_notes.remember_instead(self.path, place, state)
        files.write_json(place / "run.json", state)
        for artifact in artifacts:
            folder = self.path / "store" / artifact[:2] / artifact
            files.write_json(folder / "manifest.json", {})
        return place

    def open(self, place: Path) -> None:
        """What a command does that opens a run."""
        run_notes.remember_opened(place, json.loads((place / "run.json").read_text()))

    def users(self) -> dict[str, tuple[list[str], list[str]]]:
        """For each stored thing the names of the runs that use it, and of those that are missing."""
        return {
            thing.name: ([Path(run).name for run in thing.runs], [Path(run).name for run in thing.missing_runs])
            for thing in store_usage.usage(self.path)
        }

    def removed(self) -> list[str]:
        """Names of what is removed as unused."""
        return [thing.name for thing in store_usage.remove_unused(self.path)]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_what_a_moved_run_used_stays_before_and_after_it_is_opened(home: Home) -> None:
    place = home.run("tiny", "aa1")
    moved = place.rename(home.runs / "kept")
    assert home.users() == {"aa1": ([], ["tiny"]), "net": ([], ["tiny"])}
    assert home.removed() == []
    home.open(moved)
    assert home.users() == {"aa1": (["kept"], ["tiny"]), "net": (["kept"], ["tiny"])}
    assert store_usage.forget_missing(home.path) == [str(place)]
    assert home.users() == {"aa1": (["kept"], []), "net": (["kept"], [])}
    assert home.removed() == []


def test_what_a_deleted_run_used_is_freed_once_it_is_forgotten(home: Home) -> None:
    deleted = home.run("deleted", "aa1", "aa2")
    home.run("other", "aa2")
    (deleted / "run.json").unlink()
    assert home.removed() == []
    assert store_usage.forget_missing(home.path) == [str(deleted)]
    assert home.removed() == ["aa1"]
    assert sorted(home.users()) == ["aa2", "net"]


def test_a_run_in_the_place_of_a_moved_one_does_not_take_what_that_used(home: Home) -> None:
    moved = home.run("tiny", "aa1").rename(home.runs / "kept")
    for artifacts in (["aa2"], ["aa2"], ["aa3"]):
        home.run("tiny", *artifacts)
    assert home.removed() == ["aa2"], "a run that is run again with other settings leaves nothing that it uses"
    assert home.users()["aa1"] == ([], ["tiny"])
    home.open(moved)
    store_usage.forget_missing(home.path)
    assert home.removed() == []
    assert home.users()["aa1"] == (["kept"], [])


def test_a_run_moved_to_the_place_of_another_is_found_there(home: Home) -> None:
    (home.run("first", "aa1") / "run.json").unlink()
    (home.run("second", "aa2") / "run.json").rename(home.runs / "first" / "run.json")
    assert home.users()["aa2"] == (["first"], ["second"])
    store_usage.forget_missing(home.path)
    assert home.removed() == ["aa1"]


@pytest.mark.parametrize("content", ["{}", "[]", "no text", '{"stages": []}', '{"stages": [{}]}'])
def test_what_a_run_with_a_damaged_state_used_stays(home: Home, content: str) -> None:
    (home.run("tiny", "aa1") / "run.json").write_text(content)
    assert home.users()["aa1"] == ([], ["tiny"])
    assert home.removed() == []


def test_a_note_of_an_earlier_version_keeps_everything_when_its_run_is_gone(home: Home) -> None:
    place = home.run("tiny", "aa1")
    home.run("other", "aa2")
    (home.path / "runs" / "note.json").write_text(json.dumps({"run": str(home.runs / "gone")}))
    (home.path / "store" / "work" / "aa3").mkdir(parents=True)
    assert home.users()["aa3"] == ([], ["gone"])
    assert home.removed() == []
    assert store_usage.forget_missing(home.path) == [str(home.runs / "gone")]
    assert home.removed() == ["aa3"]
    assert home.users()["aa1"] == ([place.name], [])


def test_a_note_of_an_earlier_version_learns_what_its_run_used(home: Home) -> None:
    place = home.run("tiny", "aa1")
    (note,) = (home.path / "runs").iterdir()
    note.unlink()
    files.write_json(home.path / "runs" / f"{files.fingerprint(str(place))[:16]}.json", {"run": str(place)})
    home.users()
    (note,) = (home.path / "runs").iterdir()
    assert json.loads(note.read_text())["uses"] == ["aa1", "net"]


@pytest.mark.parametrize("content", ["[]", "{", '{"run": 3}', '{"run": "a", "uses": 3}'])
def test_what_is_no_note_is_left_out(home: Home, content: str) -> None:
    (home.path / "runs").mkdir()
    (home.path / "runs" / "note.json").write_text(content)
    assert home.users() == {"net": ([], [])}


def test_opening_a_run_writes_nothing_to_a_home_that_is_gone_or_full(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = home.run("tiny", "aa1").rename(home.runs / "kept")
    state = json.loads((place / "run.json").read_text())
    run_notes.remember_opened(place, {**state, "home": str(tmp_path / "elsewhere")})
    assert not (tmp_path / "elsewhere").exists()

    def fail(*_: Any) -> None:
        raise OSError(30, "read-only file system")

    monkeypatch.setattr(files, "write_atomic", fail)
    home.open(place)
    assert home.users()["aa1"] == ([], ["tiny"])


@pytest.mark.parametrize("opened_by", ["rank", "status"])
def test_a_run_that_was_renamed_keeps_its_artifacts(
    project: Any, tiny_spec: dict[str, Any], meds: Callable[..., Finished], opened_by: str
) -> None:
    tiny_spec["stages"] = [{"type": "memory"}, {"type": "evaluate", "map_size": 64}]
    project.run_well(spec=tiny_spec)
    kept = project.file("").rename(project.runs / "kept")
    done = meds("store", "--remove-unused")
    assert "Removed 0 things" in done.said
    assert "Kept for runs that are not where they were," in done.said
    assert f"{project.file('')} Where one was moved, `meds status RUN` with its new place has it found" in done.said
    assert "tiny (gone)" in meds("store").said
    assert meds(opened_by, kept).code == 0
    assert "not where they were" not in meds("store").said
    done = meds("store", "--remove-unused", "--forget-missing")
    assert "Removed 0 things" in done.said
    assert f"Nothing is kept any more for runs that were in: {project.file('')}" in done.said
    assert meds("rank", kept).code == 0
    kept.rename(project.root / "deleted")
    assert [row["missing_runs"] for row in json.loads(meds("store", "--json").out)] == [[str(kept)]] * 3
    assert "Removed 3 things" in meds("store", "--remove-unused", "--forget-missing").said
