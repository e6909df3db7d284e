"""Tells a run to Weights & Biases; a run that continues goes on in the same run there."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from meds.api import RunLogger

from . import WandbOptions

TABLES = ("spec.yaml", "metrics.json", "predictions.csv", "ranking.csv", "selection.csv")
NOTE = "wandb.json"


class Wandb(RunLogger):
    """One run of Weights & Biases for each run directory, whose id is kept there in wandb.json.

    Every training counts its own iterations (`define_metric`), because several follow each other in a run.
    """

    options: WandbOptions

    def __init__(self, options: WandbOptions) -> None:
        super().__init__(options)
        self._run: Any = None
        self._counted: set[str] = set()

    def run_started(self, run: Path, facts: dict[str, Any]) -> None:
        """Open the run, or the one that this directory has already, with the spec as its configuration."""
        note = run / NOTE
        if note.is_file():
            number = json.loads(note.read_text(encoding="utf-8"))["run_id"]
        else:
            number = uuid.uuid4().hex[:16]
            note.write_text(json.dumps({"run_id": number}) + "\n", encoding="utf-8")
        self._run = wandb.init(
            project=self.options.project,
            entity=self.options.entity,
            mode=self.options.mode,
            id=number,
            name=facts["name"],
            resume="allow",
            dir=str(run),
            config=facts["spec"],
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._run.config.update(facts["spec"], allow_val_change=True)

    def iteration(self, run: Path, stage: str, facts: dict[str, Any]) -> None:  # noqa: ARG002
        """Loss and learning rate by iteration."""
        figures = {"loss": facts["loss"], "learning_rate": facts["learning_rate"]}
        self._log(facts["training"], facts["iteration"], figures)

    def epoch(self, run: Path, stage: str, facts: dict[str, Any]) -> None:  # noqa: ARG002
        """Selected share and threshold of a class by iteration."""
        figures = {"selected_share": facts["selected"] / facts["total"]}
        figures |= {key: facts[key] for key in ("threshold", "alpha", "k")}
        self._log(f"{stage}/{facts['class']}", facts["iteration"], figures)

    def after_stage(self, run: Path, stage: str, facts: dict[str, Any]) -> None:  # noqa: ARG002
        """Seconds and peak memory."""
        cost = facts["cost"]
        self._summarise(f"cost/{stage}", {"seconds": cost["wall_s"], "peak_memory_mib": cost["peak_rss_mib"]})

    def stage_failed(self, run: Path, stage: str, facts: dict[str, Any]) -> None:  # noqa: ARG002
        """Close the run as failed, with the error in its summary."""
        if self._run is not None:
            self._run.summary["error"] = f"{stage}: {facts['error']}"
            self._run.finish(exit_code=1)
            self._run = None

    def run_finished(self, run: Path, facts: dict[str, Any]) -> None:
        """Metrics and tables; close the run."""
        if self._run is None:
            return
        metrics = facts["metrics"]
        if metrics is not None:
            for name, figures in {**metrics["classes"], "mean": metrics["mean"]}.items():
                self._summarise(f"metrics/{name}", {k: v for k, v in figures.items() if isinstance(v, float)})
        for path in [run / name for name in TABLES if self.options.tables]:
            if path.is_file():
                self._run.save(str(path), base_path=str(run), policy="now")
        self._run.finish()
        self._run = None

    def _log(self, group: str, iteration: int, figures: Mapping[str, float]) -> None:
        if self._run is None:
            return
        counter = f"{group}/iteration"
        if group not in self._counted:
            self._run.define_metric(counter, hidden=True)
            self._run.define_metric(f"{group}/*", step_metric=counter)
            self._counted.add(group)
        self._run.log({counter: iteration, **{f"{group}/{key}": value for key, value in figures.items()}})

    def _summarise(self, group: str, figures: Mapping[str, float]) -> None:
        if self._run is not None:
            for key, value in figures.items():
                self._run.summary[f"{group}/{key}"] = value
