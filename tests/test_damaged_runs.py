"""A finished run with damaged files, or whose process was killed: one sentence that names the file, never a guess."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Finished

from meds.core.run_directory import RunDirectory

GARBAGE = b"\xff\xfe no text"


@pytest.mark.parametrize(
    ("name", "content", "commands"),
    [
        ("run.json", b"{}", ("status", "report", "rank")),
        ("run.json", b"[]", ("status", "report", "rank")),
        ("metrics.json", b"", ("status", "report", "rank")),
        ("metrics.json", b"{}", ("status", "report", "rank")),
        ("metrics.json", b"[]", ("status", "report", "rank")),
        ("metrics.json", GARBAGE, ("status", "report", "rank")),
        ("evaluate/artifact.json", b"[]", ("report", "rank")),
        ("ranking.csv", b"", ("report", "rank")),
        ("ranking.csv", GARBAGE, ("report", "rank")),
        ("ranking.csv", b"rank,path\n1,a.png\n", ("report", "rank")),
        ("predictions.csv", GARBAGE, ("report",)),
        ("selection.csv", GARBAGE, ("report",)),
        ("spec.yaml", b"", ("report",)),
        ("spec.yaml", b"{}", ("report",)),
        ("spec.yaml", b"a: [", ("report",)),
        ("spec.yaml", None, ("report",)),
        ("ranking.csv", None, ("report", "rank")),
    ],
)
def test_a_damaged_file_of_a_run_is_named(
    finished: Any, meds: Callable[..., Finished], name: str, content: bytes | None, commands: tuple[str, ...]
) -> None:
    if content is None:
        finished.file(name).unlink()
    else:
        finished.file(name).write_bytes(content)
    for command in commands:
        done = meds(command, finished.runs / "tiny")
        assert (done.code, str(finished.file(name)) in done.said) == (2, True), f"{command}: {done.said}"
        assert "Traceback" not in done.err


def test_rows_that_are_missing_are_counted(finished: Any, meds: Callable[..., Finished]) -> None:
    path = finished.file("ranking.csv")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")
    done = meds("rank", finished.runs / "tiny")
    sentence = f"{path} has {len(lines) - 2} rows for {len(lines) - 1} images"
    assert (done.code, sentence in done.said) == (2, True), done.said
    assert meds("evaluate", finished.runs / "tiny").code == 0
    assert path.read_text().splitlines() == lines


def test_a_selection_from_before_scoring_passes_were_told_is_shown(
    finished: Any, meds: Callable[..., Finished]
) -> None:
    rows = finished.rows("selection.csv")
    names = [name for name in rows[0] if name != "scored"]
    lines = [",".join(names), *(",".join(row[name] for name in names) for row in rows)]
    finished.file("selection.csv").write_text("\n".join(lines) + "\n")
    done = meds("report", finished.runs / "tiny")
    assert done.code == 0, done.said


def test_a_run_whose_process_is_gone_is_called_stopped(finished: Any, meds: Callable[..., Finished]) -> None:
    path = finished.file("run.json")
    path.write_text(path.read_text().replace('"status": "done",\n  "name"', '"status": "running",\n  "name"'))
    done = meds("status", finished.runs / "tiny")
    assert "tiny: stopped" in done.said
    assert f"continue with `meds run {finished.file('spec.yaml')} --runs-dir {finished.runs}`" in done.said


@pytest.mark.parametrize("command", ["report", "rank"])
def test_a_folder_is_no_page(finished: Any, meds: Callable[..., Finished], tmp_path: Path, command: str) -> None:
    done = meds(command, finished.runs / "tiny", "--output", tmp_path)
    assert (done.code, f"--output {tmp_path} is a folder; give the name of a file" in done.said) == (2, True), done.said


@pytest.mark.parametrize("content", ["{}", "[]", '{"stages": []}'])
def test_the_store_is_listed_whatever_a_run_says_of_itself(
    finished: Any, meds: Callable[..., Finished], content: str
) -> None:
    finished.file("run.json").write_text(content)
    done = meds("store")
    assert done.code == 0, done.said
    assert "memory-scores" in done.said


class Killed(BaseException):
    """A process that is killed at a certain step."""


@pytest.mark.parametrize("steps", range(8))
def test_a_kill_while_reports_are_put_away_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    before = {name: name.encode() for name in ("metrics.json", "predictions.csv", "ranking.csv", "selection.csv")}
    before |= {"spec.yaml": b"old", "data.csv": b"old"}
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    data: Any = SimpleNamespace(to_csv=lambda: "new", unreadable=())
    left = [steps]

    def step(real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*arguments)

        return counted

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", step(Path.replace))
        patch.setattr(Path, "rename", step(Path.rename))
        with pytest.raises(Killed):
            RunDirectory(tmp_path).prepare("new", data, {})
    RunDirectory(tmp_path).prepare("new", data, {})
    assert {path.name: path.read_bytes() for path in (tmp_path / "earlier").iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"earlier", "spec.yaml", "data.csv"}
