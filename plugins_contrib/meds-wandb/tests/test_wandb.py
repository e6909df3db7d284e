"""What the files of Weights & Biases hold after an offline run; one id for a run directory."""

from __future__ import annotations

import json
import runpy
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb.proto.wandb_internal_pb2 import Record

EXAMPLE = Path(__file__).parents[1] / "examples" / "synthetic.yaml"
SHORT = [
    f"stages.{stage}.{key}={value}"
    for stage in ("distill", "select-finetune")
    for key, value in (("iterations", 10), ("batch_size", 2))
]
ONE_STEP = "stages=[{type: fit, iterations: 1, batch_size: 2}, {type: evaluate}]"
BLOCK, HEAD = 2**15, 7
WHOLE, FIRST, LAST = 1, 2, 4


def records(path: Path) -> Iterator[Any]:
    """The messages of a .wandb file, which is a log of LevelDB's format with a head of its own."""
    data, place, parts = path.read_bytes(), HEAD, b""
    while place + HEAD <= len(data):
        if BLOCK - place % BLOCK < HEAD:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + HEAD])
        parts = (
            data[place + HEAD : place + HEAD + length]
            if kind in (WHOLE, FIRST)
            else parts + data[place + HEAD : place + HEAD + length]
        )
        place += HEAD + length
        if kind in (WHOLE, LAST):
            record = Record()
            record.ParseFromString(parts)
            yield record


def run(*sets: str) -> int:
    """The exit code of `meds run` on the example, in this process: what a test changes in it holds for the run."""
    overrides = [word for value in sets for word in ("--set", value)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["meds", "run", str(EXAMPLE), *overrides])
        with pytest.raises(SystemExit) as left:
            runpy.run_module("meds", run_name="__main__")
    return int(left.value.code or 0)


def key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def test_losses_selection_and_metrics_are_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    assert run(*SHORT) == 0
    folder = tmp_path / "runs" / "wandb-synthetic"
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    history: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    configured: set[str] = set()
    for record in records(file):
        history.append({key(item): json.loads(item.value_json) for item in record.history.item})
        summary |= {key(item): json.loads(item.value_json) for item in record.summary.update}
        configured |= {key(item) for item in (*record.config.update, *record.run.config.update)}
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    losses = {e["iteration"]: e["loss"] for e in events if e["event"] == "iteration" and e["stage"] == "distill"}
    found = {
        row["distill (all)/iteration"]: row["distill (all)/loss"] for row in history if "distill (all)/loss" in row
    }
    assert found == pytest.approx(losses)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert summary["metrics/mean/image_auroc"] == pytest.approx(metrics["mean"]["image_auroc"])
    assert "student" in configured
    number = json.loads((folder / "wandb.json").read_text())["run_id"]
    assert number in file.name
    assert run(*SHORT, "stages.select-finetune.iterations=12") == 0
    assert json.loads((folder / "wandb.json").read_text())["run_id"] == number


def test_a_failing_service_is_named_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def fail(**_: Any) -> None:
        raise wandb.Error("no connection")

    monkeypatch.setattr(wandb, "init", fail)
    monkeypatch.setenv("MEDS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert run(ONE_STEP) == 0
    folder = tmp_path / "runs" / "wandb-synthetic"
    assert (folder / "events.jsonl").read_text().count("logger_failed") == 1
    assert (folder / "metrics.json").is_file()
