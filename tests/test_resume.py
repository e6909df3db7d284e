"""A run that is killed again and again, or finds its files damaged, ends in the same bits."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY

from meds.core.pipeline import Pipeline
from meds.core.registry import registry
from meds.core.runner import Runner, RunRequest
from meds.core.spec import load_spec

SPEC = {
    **TINY,
    "dataset": {**TINY["dataset"], "train": 24},
    "noise": {"ratio": 0.1},
    "stages": [
        {"type": "memory"},
        {"type": "distill", "iterations": 20, "batch_size": 8},
        {"type": "select-finetune", "iterations": 24, "batch_size": 8},
        {"type": "evaluate", "map_size": 64},
    ],
}
STAGES = ["memory", "distill", "select-finetune", "evaluate"]
KILLS = ["features", "features", "memory", "memory", *["distill"] * 3, *["select-finetune"] * 4, "evaluate", "evaluate"]
PATIENCE = 300.0


class Place:
    """A folder with a spec, a home and a run of its own."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root, self.home, self.run = root, root / "home", root / "runs" / "tiny"
        self.spec = root / "spec.yaml"
        self.spec.write_text(yaml.safe_dump(SPEC), encoding="utf-8")

    def start(self, checkpoint_seconds: float) -> subprocess.Popen[bytes]:
        """`meds run` in a process of its own."""
        settings = {"MEDS_HOME": str(self.home), "MEDS_CHECKPOINT_SECONDS": str(checkpoint_seconds)}
        command = [sys.executable, "-m", "meds", "run", str(self.spec), "--runs-dir", str(self.run.parent)]
        with (self.root / "log.txt").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **settings})

    def finish(self, checkpoint_seconds: float) -> None:
        """Run to the end."""
        code = self.start(checkpoint_seconds).wait(PATIENCE)
        assert code == 0, (self.root / "log.txt").read_text()

    def again(self, reporter: Reporter | None = None) -> Reporter:
        """Run in this process with this folder as home, and return the reporter."""
        reporter = reporter or Reporter()
        pipeline = Pipeline(load_spec(self.spec, registry()), registry(), self.home)
        Runner(pipeline, RunRequest(self.run), reporter).run()
        return reporter

    def events(self) -> list[dict[str, Any]]:
        """All events so far."""
        path = self.run / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def artifact(self, stage: str) -> Path:
        """The folder of a stage's artifact."""
        state = json.loads((self.run / "run.json").read_text())
        name = state["stages"][STAGES.index(stage)]["fingerprint"]
        return Path(self.home / "store" / name[:2] / name)

    def sums(self) -> dict[str, dict[str, str]]:
        """Checksums of every file of every artifact, as the manifests have them."""
        return {stage: json.loads((self.artifact(stage) / "manifest.json").read_text())["files"] for stage in STAGES}

    def shards(self) -> dict[str, bytes]:
        """The bytes of all feature shards."""
        return {path.parent.name + path.name: path.read_bytes() for path in self.home.glob("features/*/*/*")}

    def leftovers(self) -> list[Path]:
        """Temporary files and unfinished work."""
        return [*self.root.rglob("*.tmp"), *self.home.glob("store/work/*")]


class Reporter:
    """Keeps what is said and how far each bar was at its first step; stops the run at one step of a bar."""

    def __init__(self, bar: str = "", step: int = 0) -> None:
        self.stop_at = (bar, step)
        self.said: list[str] = []
        self.begun: dict[str, int] = {}

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Any]:
        self.title, self.done = title, 0
        yield self

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.begun.setdefault(self.title, steps)
        self.done += steps
        if (self.title, self.done) == self.stop_at:
            raise KeyboardInterrupt

    def say(self, text: str) -> None:
        self.said.append(text)


def stage_of(events: list[dict[str, Any]]) -> str:
    """What a run does after these events: "features", a stage, or "" in between."""
    last = next((e for e in reversed(events) if e["event"] != "epoch"), {"event": ""})
    return {"run_started": "features", "before_stage": last.get("stage", "")}.get(last["event"], "")


def seconds_of(events: list[dict[str, Any]]) -> dict[str, float]:
    """How long each part of an undisturbed run took."""
    began = {e["stage"]: e["time"] for e in events if e["event"] == "before_stage"}
    ended = {e["stage"]: e["time"] for e in events if e["event"] == "after_stage"}
    features = next(e["wall_s"] for e in events if e["event"] == "features")
    return {"features": features, **{stage: ended[stage] - began[stage] for stage in STAGES}}


def kill_in(place: Place, target: str, wait: float) -> str:
    """Start a run, kill it some seconds after it has come to a part or passed it; returns the part it was in."""
    known, process = len(place.events()), place.start(0)
    order, limit = ["features", *STAGES], time.monotonic() + PATIENCE
    while process.poll() is None:
        now = stage_of(place.events()[known:])
        if now and order.index(now) >= order.index(target):
            time.sleep(wait)
            break
        assert time.monotonic() < limit
        time.sleep(0.005)
    process.kill()
    killed = process.wait(PATIENCE) == -signal.SIGKILL
    assert killed or process.returncode == 0, (place.root / "log.txt").read_text()
    return stage_of(place.events()[known:]) if killed else "finished"


def flip(path: Path) -> bytes:
    """Flip a bit in the middle of a file; returns the bytes as they were."""
    whole = path.read_bytes()
    half = len(whole) // 2
    path.write_bytes(whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :])
    return whole


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A finished run that nobody stopped and that wrote no checkpoint."""
    place = Place(tmp_path_factory.mktemp("undisturbed"))
    place.finish(checkpoint_seconds=3600)
    return place


@pytest.fixture
def copied(undisturbed: Place, tmp_path: Path) -> Place:
    """A copy of the finished run."""
    shutil.copytree(undisturbed.root, tmp_path / "copy")
    return Place(tmp_path / "copy")


def test_a_run_killed_a_dozen_times_ends_in_the_same_bits(undisturbed: Place, tmp_path: Path) -> None:
    place, chance = Place(tmp_path / "killed"), random.Random(0)
    seconds = seconds_of(undisturbed.events())
    hits = [kill_in(place, part, chance.uniform(0.02, 0.28) * seconds[part]) for part in KILLS]
    assert set(hits) >= {"features", *STAGES}, hits
    place.finish(checkpoint_seconds=0)
    assert place.sums() == undisturbed.sums()
    assert place.shards() == undisturbed.shards()
    for report in ("metrics.json", "predictions.csv", "ranking.csv", "selection.csv"):
        assert (place.run / report).read_bytes() == (undisturbed.run / report).read_bytes()
    assert place.leftovers() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_end_says_how_to_continue(undisturbed: Place, tmp_path: Path, number: int) -> None:
    place, limit = Place(tmp_path), time.monotonic() + PATIENCE
    # Where the tests run in the background, a process would be started to ignore SIGINT.
    before = signal.signal(number, signal.default_int_handler)
    try:
        process = place.start(0)
    finally:
        signal.signal(number, before)
    while stage_of(place.events()) != "distill":
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.005)
    process.send_signal(number)
    assert process.wait(PATIENCE) == 128 + number
    said = (place.root / "log.txt").read_text()
    assert f"Continue with: meds run {place.spec}" in said
    assert "meds: stopped.\n" in said
    assert "Traceback" not in said
    place.finish(checkpoint_seconds=0)
    assert place.sums() == undisturbed.sums()


@pytest.mark.parametrize("stage", ["memory", "select-finetune"])
def test_damage_is_named_and_mended(copied: Place, undisturbed: Place, stage: str) -> None:
    artifact = max(copied.artifact(stage).glob("*.safetensors"), key=lambda path: path.stat().st_size)
    shard = sorted(copied.home.glob("features/*/stride8/*"))[0]
    flip(artifact)
    flip(shard)
    said = " ".join(copied.again().said)
    assert f"{artifact} is damaged: its bytes do not match its checksum. The stage `{stage}` is computed again." in said
    assert f"{shard} is damaged: its bytes do not match its checksum. Its features are computed again." in said
    assert copied.sums() == undisturbed.sums()
    assert copied.shards() == undisturbed.shards()


def test_half_written_files_of_a_killed_run_are_removed(copied: Place) -> None:
    (layer,) = copied.home.glob("features/*/stride8")
    work = copied.home / "store" / "work" / copied.artifact("memory").name
    (work / "output").mkdir(parents=True)
    shutil.rmtree(copied.artifact("memory"))
    for folder in (layer, work, work / "output", copied.run, copied.run / "memory"):
        (folder / ".name.12345.tmp").write_bytes(b"half")
    assert len(copied.leftovers()) == 6
    copied.again()
    assert copied.leftovers() == []


@pytest.mark.parametrize("stage", ["distill", "select-finetune"])
def test_a_damaged_checkpoint_is_passed_over(
    copied: Place, undisturbed: Place, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDS_CHECKPOINT_SECONDS", "0")
    work, title = copied.home / "store" / "work" / copied.artifact(stage).name, f"{stage} (all)"
    shutil.rmtree(copied.artifact(stage))
    for step, begun in ((6, 0), (12, 5)):
        reporter = Reporter(title, step)
        with pytest.raises(KeyboardInterrupt):
            copied.again(reporter)
        assert reporter.begun[title] == begun
        state = json.loads((copied.run / "run.json").read_text())
        rows = {row["name"]: row["status"] for row in state["stages"]}
        assert (state["status"], rows[stage], state["error"]) == ("stopped", "stopped", "It was stopped.")
        if step == 6:
            (older,) = work.glob("*.safetensors")
            kept = older.read_bytes()
    (newest,) = work.glob("*.safetensors")
    flip(newest)
    assert copied.again().begun[title] == 0
    assert copied.sums() == undisturbed.sums()
    shutil.rmtree(copied.artifact(stage))
    work.mkdir()
    older.write_bytes(kept)
    newest.write_bytes(b"")
    assert copied.again().begun[title] == 5
    assert copied.sums() == undisturbed.sums()
