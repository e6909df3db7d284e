"""Run loggers: what they are told, that a failing one is left out, and what TensorBoard shows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from meds.core.events import Events, RunLogger
from meds.core.registry import load_registry

pytest.importorskip("tensorboard", reason="needs the extra tensorboard")


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Value by step of every scalar in a folder of event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), purge_orphaned_data=True)
    found.Reload()
    return {tag: {event.step: event.value for event in found.Scalars(tag)} for tag in found.Tags()["scalars"]}


def with_logger(spec: dict[str, Any]) -> dict[str, Any]:
    return spec | {"loggers": [{"type": "tensorboard"}]}


def test_tensorboard_shows_losses_selection_costs_and_metrics(project: Any, tiny_spec: dict[str, Any]) -> None:
    project.run_well(spec=with_logger(tiny_spec))
    folder = project.file("tensorboard")
    told = project.events("iteration")
    for stage, iterations in (("distill", 4), ("select-finetune", 6)):
        loss = scalars(folder / f"{stage} (all)")["loss"]
        last = next(event for event in told if event["stage"] == stage)
        assert loss == {iterations: pytest.approx(last["loss"])}
    epochs = [event for event in project.events("epoch") if event["class"] == "weave"]
    shown = scalars(folder / "select-finetune of weave")
    assert list(shown["selection/threshold"].values()) == pytest.approx([e["threshold"] for e in epochs])
    shares = [event["selected"] / event["total"] for event in epochs]
    assert list(shown["selection/selected share"].values()) == pytest.approx(shares)
    whole = scalars(folder / "run")
    metrics = project.json("metrics.json")
    assert whole["metrics/mean/image_auroc"][0] == pytest.approx(metrics["mean"]["image_auroc"])
    cost = project.events("after_stage")[0]["cost"]["wall_s"]
    assert whole["cost/memory/seconds"][0] == pytest.approx(cost)


def test_steps_after_a_kill_replace_those_before_it(tmp_path: Path) -> None:
    logger = load_registry().get("logger", "tensorboard")

    def told(steps: list[int], loss: float) -> None:
        """What one process tells before it is killed."""
        made = logger.load()(logger.plugin.options())
        for step in steps:
            facts = {"training": "fit (all)", "iteration": step, "iterations": 60, "learning_rate": 0.1}
            made.iteration(tmp_path, "fit", facts | {"loss": loss})
        made._flush()

    told([10, 20, 30, 40], 1.0)
    told([30, 40, 50], 2.0)
    loss = scalars(tmp_path / "tensorboard" / "fit (all)")["loss"]
    assert loss == {10: 1.0, 20: 1.0, 30: 2.0, 40: 2.0, 50: 2.0}


def test_without_the_package_one_sentence_says_what_to_install(
    project: Any, tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    done = project.run(spec=with_logger(tiny_spec))
    assert done.code == 2
    assert "pip install 'meds-ad[tensorboard]'" in done.said


def test_loggers_are_told_the_spec_and_the_metrics(tmp_path: Path) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []

    class Listens(RunLogger):
        def run_started(self, run: Path, facts: dict[str, Any]) -> None:
            heard.append(("started", facts))

        def run_finished(self, run: Path, facts: dict[str, Any]) -> None:
            heard.append(("finished", facts))

    events = Events(tmp_path, [("listens", Listens(None))])
    events.started("tiny", {"seed": 3})
    events.finished({"mean": {}})
    assert heard == [("started", {"name": "tiny", "spec": {"seed": 3}}), ("finished", {"metrics": {"mean": {}}})]
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["run_started", "run_finished"]
    assert "spec" not in lines[0]


def test_a_logger_that_raises_is_named_once_and_left_out(tmp_path: Path) -> None:
    class Raises(RunLogger):
        calls = 0

        def before_stage(self, run: Path, stage: str, facts: dict[str, Any]) -> None:
            Raises.calls += 1
            raise SystemExit("no connection")

    warnings: list[str] = []
    events = Events(tmp_path, [("raises", Raises(None))], warnings.append)
    for stage in ("memory", "distill"):
        events.emit("before_stage", stage=stage)
    assert Raises.calls == 1
    (warning,) = warnings
    assert warning.startswith("The logger 'raises' has failed (SystemExit: no connection);")


def test_a_training_that_begins_anew_replaces_the_curves_of_the_one_before(tmp_path: Path) -> None:
    logger = load_registry().get("logger", "tensorboard")
    for steps in (range(0, 20, 2), range(0, 10, 2)):
        made = logger.load()(logger.plugin.options())
        for step in steps:
            facts = {"class": "weave", "iteration": step, "selected": 3, "total": 4, "threshold": 1.0, "alpha": 0.5}
            made.epoch(tmp_path, "select-finetune", facts | {"k": 1.0})
        made._flush()
    shown = scalars(tmp_path / "tensorboard" / "select-finetune of weave")["selection/threshold"]
    assert sorted(shown) == [0, 2, 4, 6, 8]


def test_what_a_logger_does_to_its_facts_stays_with_it(tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []

    class Spoils(RunLogger):
        def run_finished(self, run: Path, facts: dict[str, Any]) -> None:
            facts.pop("metrics").clear()

    class Listens(RunLogger):
        def run_finished(self, run: Path, facts: dict[str, Any]) -> None:
            heard.append(facts)

    metrics = {"mean": {"image_auroc": 0.5}}
    Events(tmp_path, [("spoils", Spoils(None)), ("listens", Listens(None))]).finished(metrics)
    assert heard == [{"metrics": {"mean": {"image_auroc": 0.5}}}]
    assert metrics == {"mean": {"image_auroc": 0.5}}


def test_a_logger_that_cannot_be_made_costs_a_finished_run_nothing(
    finished: Any, tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    before = {path: path.read_bytes() for path in (finished.runs / "tiny").rglob("*") if path.is_file()}
    assert finished.run(spec=with_logger(tiny_spec)).code == 2
    assert {path: path.read_bytes() for path in (finished.runs / "tiny").rglob("*") if path.is_file()} == before


def test_an_error_before_the_first_stage_is_told_as_the_first_stage_s(
    project: Any, tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("meds.core.runner.extract_features", stopped)
    assert project.run(spec=tiny_spec).code != 0
    (told,) = project.events("stage_failed")
    assert (told["stage"], told["error"]) == ("memory", "It was stopped.")


def test_costs_of_stages_that_are_not_computed_again_stay(project: Any, tiny_spec: dict[str, Any]) -> None:
    for _ in range(2):
        project.run_well(spec=with_logger(tiny_spec))
    assert "cost/memory/seconds" in scalars(project.file("tensorboard/run"))
