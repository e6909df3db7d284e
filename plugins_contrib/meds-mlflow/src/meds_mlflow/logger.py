"""Tells a run to MLflow; a run that continues goes on in the same run of MLflow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.time import get_current_time_millis

from meds.api import RunLogger

from . import MlflowOptions

TABLES = ("spec.yaml", "metrics.json", "predictions.csv", "ranking.csv", "selection.csv")
NOTE = "mlflow.json"
LONGEST_VALUE = 6000
AT_ONCE = 100
# Of a run that was deleted, or that another server has made.
_GONE = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


class Mlflow(RunLogger):
    """One run of MLflow for each run directory, whose id is kept there in mlflow.json."""

    options: MlflowOptions

    def __init__(self, options: MlflowOptions) -> None:
        super().__init__(options)
        self._client: MlflowClient | None = None
        self._run_id = ""

    def run_started(self, run: Path, facts: dict[str, Any]) -> None:
        """Open the run, or the one that this directory has already, and write the spec as parameters."""
        client = MlflowClient(self.options.tracking_uri)
        self._client, self._run_id = client, self._opened(client, run, str(facts["name"]))
        known = client.get_run(self._run_id).data.params
        values = dict(flattened(facts["spec"]))
        # MLflow refuses to change a parameter; a spec that changed between two commands is told by a tag.
        changed = sorted(key for key, value in values.items() if known.get(key, value) != value)
        fresh = [Param(key, value) for key, value in values.items() if key not in known]
        for start in range(0, len(fresh), AT_ONCE):
            client.log_batch(self._run_id, params=fresh[start : start + AT_ONCE])
        tags = [RunTag("meds.directory", str(run.resolve()))]
        if changed:
            tags.append(RunTag("meds.changed", ", ".join(changed)[:LONGEST_VALUE]))
        client.log_batch(self._run_id, tags=tags)

    def before_stage(self, run: Path, stage: str, facts: dict[str, Any]) -> None:  # noqa: ARG002
        """The stage that the run is in, as a tag."""
        if self._client is not None:
            self._client.set_tag(self._run_id, "meds.stage", stage)

    def iteration(self, run: Path, stage: str, facts: dict[str, Any]) -> None:  # noqa: ARG002
        """Loss and learning rate by iteration."""
        figures = {"loss": facts["loss"], "learning_rate": facts["learning_rate"]}
        self._log(facts["training"], figures, facts["iteration"])

    def epoch(self, run: Path, stage: str, facts: dict[str, Any]) -> None:  # noqa: ARG002
        """Selected share and threshold of a class by iteration."""
        figures = {"selected_share": facts["selected"] / facts["total"]}
        figures |= {key: facts[key] for key in ("threshold", "alpha", "k")}
        self._log(f"{stage}/{facts['class']}", figures, facts["iteration"])

    def after_stage(self, run: Path, stage: str, facts: dict[str, Any]) -> None:  # noqa: ARG002
        """Seconds and peak memory."""
        cost = facts["cost"]
        self._log(f"cost/{stage}", {"seconds": cost["wall_s"], "peak_memory_mib": cost["peak_rss_mib"]}, 0)

    def stage_failed(self, run: Path, stage: str, facts: dict[str, Any]) -> None:  # noqa: ARG002
        """Close the run as failed, or as killed if somebody has stopped it, with the error as a tag."""
        if self._client is None:
            return
        self._client.set_tag(self._run_id, "meds.error", f"{stage}: {facts['error']}"[:LONGEST_VALUE])
        self._client.set_terminated(self._run_id, "KILLED" if facts.get("stopped") else "FAILED")

    def run_finished(self, run: Path, facts: dict[str, Any]) -> None:
        """Metrics, tables and, if wanted, the student; close the run."""
        if self._client is None:
            return
        metrics = facts["metrics"]
        if metrics is not None:
            for name, figures in {**metrics["classes"], "mean": metrics["mean"]}.items():
                self._log(f"metrics/{name}", {k: v for k, v in figures.items() if isinstance(v, float)}, 0)
        files = [run / name for name in TABLES if self.options.tables]
        if self.options.model:
            files += _students(run)
        for path in files:
            if path.is_file():
                self._client.log_artifact(self._run_id, str(path))
        self._client.set_terminated(self._run_id, "FINISHED")

    def _opened(self, client: MlflowClient, run: Path, name: str) -> str:
        note = run / NOTE
        if note.is_file():
            kept: str = json.loads(note.read_text(encoding="utf-8"))["run_id"]
            try:
                client.update_run(kept, status="RUNNING")
            except MlflowException as error:
                if error.error_code not in _GONE:
                    raise
                # It was deleted, or the spec names another server now.
                note.unlink()
            else:
                return kept
        experiment = client.get_experiment_by_name(self.options.experiment)
        number = client.create_experiment(self.options.experiment) if experiment is None else experiment.experiment_id
        made: str = client.create_run(number, run_name=name).info.run_id
        note.write_text(json.dumps({"run_id": made}) + "\n", encoding="utf-8")
        return made

    def _log(self, group: str, figures: Mapping[str, float], step: int) -> None:
        if self._client is None:
            return
        now = get_current_time_millis()
        rows = [Metric(allowed(f"{group}/{key}"), float(value), now, step) for key, value in figures.items()]
        self._client.log_batch(self._run_id, metrics=rows)


def _students(run: Path) -> list[Path]:
    """The files of the students of a run's last stage that has any: one, or one a class."""
    found: list[Path] = []
    state = run / "run.json"
    for stage in json.loads(state.read_text(encoding="utf-8"))["stages"] if state.is_file() else []:
        if stage["artifact"] is not None:
            found = sorted(Path(stage["artifact"]).glob("student*.safetensors")) or found
    return found


def allowed(name: str) -> str:
    """A metric's name with nothing that MLflow refuses."""
    return re.sub(r"[^\w\-. /:]", "_", name)


def flattened(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Plain data as (dotted key, text) pairs; a stage or logger goes by its type in place of its number."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flattened(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and all(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            kinds = [other.get("type") for other in value]
            alone = item.get("type") is not None and kinds.count(item.get("type")) == 1
            yield from flattened(item, f"{path}.{item['type'] if alone else number}")
    else:
        yield allowed(path), str(value)[:LONGEST_VALUE]
