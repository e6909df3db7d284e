"""What happens in a run, told to events.jsonl and to every logger that the spec names."""

from __future__ import annotations

import copy
import json
import time
from abc import ABC
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from meds.core.seeds import undisturbed_randomness


class RunLogger(ABC):  # noqa: B024 - every hook is optional
    """Base class of run loggers; override what is of interest.

    Hooks are called while the run goes on, with its directory. A logger that raises an error is named in a warning and
    not called again; the run and its results do not notice. A run that continues after a kill repeats the events since
    its last checkpoint, with the same figures.
    """

    def __init__(self, options: Any) -> None:
        self.options = options

    def run_started(self, run: Path, facts: dict[str, Any]) -> None:  # noqa: B027
        """The run begins or continues; `facts` has its `name` and the resolved `spec` as plain data."""

    def before_stage(self, run: Path, stage: str, facts: dict[str, Any]) -> None:  # noqa: B027
        """A stage is about to be computed."""

    def iteration(self, run: Path, stage: str, facts: dict[str, Any]) -> None:  # noqa: B027
        """Every tenth iteration of a training, and the last.

        `facts`: `training` (the stage and the classes that it trains on), `iteration` (from 1), `iterations`, `loss`
        and `learning_rate`.
        """

    def epoch(self, run: Path, stage: str, facts: dict[str, Any]) -> None:  # noqa: B027
        """A selection: `iteration`, `epoch`, `class`, `selected` of `total` images, `threshold`, `alpha`, `k`.

        And `scored`: 1 where the epoch began with a pass over all images, 0 where it selects by earlier scores.
        """

    def artifact_saved(self, run: Path, stage: str, facts: dict[str, Any]) -> None:  # noqa: B027
        """An artifact has been written; `facts` holds its folder and fingerprint."""

    def after_stage(self, run: Path, stage: str, facts: dict[str, Any]) -> None:  # noqa: B027
        """A stage has been computed; `facts` holds its cost."""

    def stage_failed(self, run: Path, stage: str, facts: dict[str, Any]) -> None:  # noqa: B027
        """A stage, or what had to be done before it, has raised an error or was `stopped`; `facts` has both."""

    def run_finished(self, run: Path, facts: dict[str, Any]) -> None:  # noqa: B027
        """All stages are done; `facts` has the `metrics` (as in metrics.json), None where nothing was evaluated."""


class Events:
    """Appends every event to events.jsonl and passes those with a hook on to the loggers, named as in the spec."""

    RUN_HOOKS = ("run_started", "run_finished")
    STAGE_HOOKS = ("before_stage", "iteration", "epoch", "artifact_saved", "after_stage", "stage_failed")

    def __init__(
        self, run: Path, loggers: Sequence[tuple[str, RunLogger]] = (), warn: Callable[[str], None] = lambda _: None
    ) -> None:
        self.run, self.loggers, self._warn = run, list(loggers), warn
        self.path = run / "events.jsonl"

    def emit(self, event: str, **facts: Any) -> None:
        """Note one event and tell the loggers."""
        self._append(event, **facts)
        self._tell(event, facts)

    def started(self, name: str, spec: dict[str, Any]) -> None:
        """The run begins; the spec stands in spec.yaml and is only told to the loggers."""
        self._append("run_started", name=name)
        self._tell("run_started", {"name": name, "spec": spec})

    def finished(self, metrics: dict[str, Any] | None) -> None:
        """The run is done; the metrics stand in metrics.json and are only told to the loggers."""
        self._append("run_finished")
        self._tell("run_finished", {"metrics": metrics})

    def _tell(self, event: str, facts: dict[str, Any]) -> None:
        stage: tuple[str, ...] = ()
        if event in self.STAGE_HOOKS:
            stage = (str(facts.pop("stage", "")),)
        elif event not in self.RUN_HOOKS:
            return
        if not self.loggers:
            return
        with undisturbed_randomness():
            for name, logger in list(self.loggers):
                try:
                    # Each has its own copy: what one does to it is no business of the others or of the run.
                    getattr(logger, event)(self.run, *stage, copy.deepcopy(facts))
                except (Exception, SystemExit) as error:
                    self._leave_out(name, logger, error)

    def _leave_out(self, name: str, logger: RunLogger, error: BaseException) -> None:
        self.loggers.remove((name, logger))
        text = f"{type(error).__name__}: {error}"
        self._append("logger_failed", logger=name, error=text)
        self._warn(f"The logger '{name}' has failed ({text}); it is left out from here on, and the run goes on.")

    def _append(self, event: str, **facts: Any) -> None:
        row = {"time": round(time.time(), 3), "event": event, **facts}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
