"""What happens in a run, told to events.jsonl and to every logger that the spec names."""

from __future__ import annotations

import json
import time
from abc import ABC
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class RunLogger(ABC):  # noqa: B024 - every hook is optional
    """Base class of run loggers; override what is of interest. An error in a logger never stops a run."""

    def __init__(self, options: Any) -> None:
        self.options = options

    def before_stage(self, run: Path, stage: str, facts: dict[str, Any]) -> None:  # noqa: B027
        """A stage is about to be computed."""

    def after_stage(self, run: Path, stage: str, facts: dict[str, Any]) -> None:  # noqa: B027
        """A stage has been computed; `facts` holds its cost."""

    def stage_failed(self, run: Path, stage: str, facts: dict[str, Any]) -> None:  # noqa: B027
        """A stage has raised an error."""

    def epoch(self, run: Path, stage: str, facts: dict[str, Any]) -> None:  # noqa: B027
        """A training epoch has started; `facts` holds figures such as the number of selected images."""

    def artifact_saved(self, run: Path, stage: str, facts: dict[str, Any]) -> None:  # noqa: B027
        """An artifact has been written; `facts` holds its folder and fingerprint."""


class Events:
    """Appends every event to events.jsonl and passes those with a hook on to the loggers."""

    HOOKS = ("before_stage", "after_stage", "stage_failed", "epoch", "artifact_saved")

    def __init__(self, run: Path, loggers: Sequence[RunLogger] = ()) -> None:
        self.run, self.loggers = run, loggers
        self.path = run / "events.jsonl"

    def emit(self, event: str, **facts: Any) -> None:
        """Note one event."""
        self._append({"time": round(time.time(), 3), "event": event, **facts})
        if event not in self.HOOKS:
            return
        stage = str(facts.pop("stage", ""))
        for logger in self.loggers:
            try:
                getattr(logger, event)(self.run, stage, facts)
            except Exception as error:
                text = f"{type(logger).__name__}: {type(error).__name__}: {error}"
                self._append({"time": round(time.time(), 3), "event": "logger_failed", "error": text})

    def _append(self, row: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
