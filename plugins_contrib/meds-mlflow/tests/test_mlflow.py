"""What stands in MLflow after runs: parameters, metrics by step, tables; one run for a run directory."""

from __future__ import annotations

import csv
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from meds_mlflow.logger import allowed, flattened
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from PIL import Image

EXAMPLE = Path(__file__).parents[1] / "examples" / "synthetic.yaml"
SHORT = [
    f"stages.{stage}.{key}={value}"
    for stage in ("distill", "select-finetune")
    for key, value in (("iterations", 10), ("batch_size", 2))
]
ONE_STEP = "stages=[{type: fit, iterations: 1, batch_size: 2}, {type: evaluate}]"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("MEDS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = MlflowClient(uri)
    client.create_experiment("meds", artifact_location=(tmp_path / "artifacts").as_uri())
    return client


def run(*sets: str) -> int:
    """The exit code of `meds run` on the example, in this process: what a test changes in it holds for the run."""
    overrides = [word for value in sets for word in ("--set", value)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["meds", "run", str(EXAMPLE), *overrides])
        with pytest.raises(SystemExit) as left:
            runpy.run_module("meds", run_name="__main__")
    return int(left.value.code or 0)


def only_run(client: MlflowClient) -> Any:
    experiment = client.get_experiment_by_name("meds")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    return found


def test_a_run_and_its_continuation_are_one_run(server: MlflowClient, tmp_path: Path) -> None:
    assert run(*SHORT) == 0
    found = only_run(server)
    assert found.info.status == "FINISHED"
    assert found.data.params["student.type"] == "rd"
    assert found.data.params["stages.distill.iterations"] == "10"
    metrics = json.loads((tmp_path / "runs" / "mlflow-synthetic" / "metrics.json").read_text())
    assert found.data.metrics["metrics/mean/image_auroc"] == pytest.approx(metrics["mean"]["image_auroc"])
    events = [json.loads(line) for line in (tmp_path / "runs/mlflow-synthetic/events.jsonl").read_text().splitlines()]
    losses = {e["iteration"]: e["loss"] for e in events if e["event"] == "iteration" and e["stage"] == "distill"}
    history = server.get_metric_history(found.info.run_id, allowed("distill (all)/loss"))
    assert {row.step: row.value for row in history} == pytest.approx(losses)
    assert {file.path for file in server.list_artifacts(found.info.run_id)} >= {"metrics.json", "ranking.csv"}
    assert run(*SHORT, "stages.select-finetune.iterations=12") == 0
    again = only_run(server)
    assert again.info.run_id == found.info.run_id
    assert again.data.tags["meds.changed"] == "stages.select-finetune.iterations"


def test_a_failed_stage_closes_the_run_as_failed(server: MlflowClient, tmp_path: Path) -> None:
    (tmp_path / "equal").mkdir()
    for number in range(6):
        Image.new("RGB", (64, 64), "grey").save(tmp_path / "equal" / f"{number}.png")
    assert run(*SHORT, f"dataset={{type: folder, path: '{tmp_path}/equal'}}", "noise=null") == 2
    found = only_run(server)
    assert found.info.status == "FAILED"
    assert found.data.tags["meds.stage"] == "select-finetune"
    assert found.data.tags["meds.error"].startswith("select-finetune: SelectionError: ")
    assert "cost/distill/seconds" in found.data.metrics


def test_what_it_hears_of(server: MlflowClient, tmp_path: Path) -> None:
    """Every hook of a stage's life leaves something in MLflow."""
    assert run(*SHORT, "loggers=[{type: mlflow, model: true}]") == 0
    found = only_run(server)
    history = server.get_metric_history(found.info.run_id, "select-finetune/weave/selected_share")
    with (tmp_path / "runs/mlflow-synthetic/selection.csv").open(encoding="utf-8", newline="") as file:
        selections = list(csv.DictReader(file))
    wanted = {int(row["iteration"]): int(row["selected"]) / int(row["total"]) for row in selections}
    assert {row.step: row.value for row in history} == pytest.approx(wanted)
    assert found.data.tags["meds.stage"] == "evaluate"
    assert {"cost/memory/seconds", "cost/evaluate/seconds"} <= set(found.data.metrics)
    assert "student.safetensors" in {file.path for file in server.list_artifacts(found.info.run_id)}


def test_students_of_classes_that_were_trained_before_are_stored(server: MlflowClient, tmp_path: Path) -> None:
    assert run(*SHORT, "classes=separate", "loggers=[]") == 0
    assert run(*SHORT, "classes=separate", "loggers=[{type: mlflow, model: true}]") == 0
    stored = {file.path for file in server.list_artifacts(only_run(server).info.run_id)}
    assert "student.000.safetensors" in stored


def test_a_server_that_is_down_does_not_cost_the_run_its_place(
    server: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: object, **__: object) -> None:
        raise MlflowException("connection refused")

    assert run(ONE_STEP) == 0
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "update_run", down)
        assert run(ONE_STEP) == 0
    assert run(ONE_STEP) == 0
    assert only_run(server).info.status == "FINISHED"


def test_a_server_that_is_not_there_is_named_and_the_run_goes_on(server: MlflowClient, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert run(ONE_STEP, f"loggers=[{{type: mlflow, tracking_uri: 'sqlite:///{tmp_path}/file/below.db'}}]") == 0
    events = (tmp_path / "runs" / "mlflow-synthetic" / "events.jsonl").read_text()
    assert events.count("logger_failed") == 1
    assert (tmp_path / "runs" / "mlflow-synthetic" / "metrics.json").is_file()


def test_keys_are_dotted_and_stages_go_by_type() -> None:
    spec = yaml.safe_load(
        "{seed: 1, stages: [{type: fit, iterations: 3}, {type: fit}, {type: evaluate}], layers: [a, b]}"
    )
    assert dict(flattened(spec)) == {
        "seed": "1",
        "stages.0.type": "fit",
        "stages.0.iterations": "3",
        "stages.1.type": "fit",
        "stages.evaluate.type": "evaluate",
        "layers": "['a', 'b']",
    }
