"""The kit for run loggers: told when stages start, end or fail, and of every epoch."""

from __future__ import annotations

import copy
import difflib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from meds.core.events import Events, RunLogger
from meds.testing.base import CheckError, Kit, check, require
from meds.testing.bits import difference
from meds.testing.surroundings import temporary_folder
from meds.testing.tiny_run import MEDS, Moments, Stopped, TinyRun

COST = {"wall_s": 1.5, "cpu_s": 1.4, "peak_rss_mib": 512.0, "peak_gpu_mib": 0.0, "bytes": 2048}
EVENTS: dict[str, dict[str, Any]] = {
    "before_stage": {"fingerprint": "0" * 64},
    "iteration": {
        "training": "select-finetune (all)",
        "iteration": 10,
        "iterations": 20,
        "loss": 0.5,
        "learning_rate": 0.001,
    },
    "epoch": {
        "iteration": 4,
        "epoch": 1,
        "class": "weave",
        "selected": 5,
        "total": 7,
        "threshold": 0.25,
        "alpha": 0.5,
        "k": 0.25,
        "scored": 1,
    },
    "artifact_saved": {"fingerprint": "0" * 64, "path": "store/00/0"},
    "after_stage": {"cost": COST},
    "stage_failed": {"error": "MedsError: the loss is no longer a finite number at iteration 3", "stopped": False},
}
"""Every event of a stage that a logger is told of, with the facts that meds gives."""
RUN_EVENTS: dict[str, dict[str, Any]] = {
    "run_started": {"name": "tiny", "spec": {"name": "tiny", "stages": [{"type": "memory"}]}},
    "run_finished": {
        "metrics": {
            "classes": {"weave": {"image_auroc": 0.9, "pixel_auroc": None}},
            "mean": {"image_auroc": 0.9, "pixel_auroc": None},
        }
    },
}
"""The events of a whole run."""
HOOKS = (*Events.RUN_HOOKS, *Events.STAGE_HOOKS)
ALIKE = 0.7
"""From here on difflib takes one name for another that is misspelt: `on_epoch` and `epoch_end` for `epoch`."""


class RunLoggerKit(Kit):
    """Every check of the contract `RunLogger`."""

    kind = "logger"
    contract = RunLogger

    def made(self) -> RunLogger:
        """The logger."""
        logger: RunLogger = self.implementation()(self.made_options())
        return logger

    @check
    def test_every_event_is_survived(self) -> None:
        """No event with the facts that meds gives makes it raise an error."""
        with temporary_folder() as folder:
            events = Events(folder, [(self.name, self.made())])
            events.started(**RUN_EVENTS["run_started"])
            for event, facts in EVENTS.items():
                events.emit(event, stage="select-finetune", **facts)
            events.finished(**RUN_EVENTS["run_finished"])
            errors = failures(folder)
            require(not errors, f"{self.title} raises an error when it is told of an event: {(*errors, '')[0]}")

    @check
    def test_hooks_have_their_names(self) -> None:
        """It overrides a hook, and has no public method whose name is nearly that of a hook that it leaves out."""
        found = self.implementation()
        left_out = [hook for hook in HOOKS if getattr(found, hook) is getattr(RunLogger, hook)]
        for name in dir(found):
            if name.startswith("_") or hasattr(RunLogger, name) or not callable(getattr(found, name)):
                continue
            near = difflib.get_close_matches(name, left_out, n=1, cutoff=ALIKE)
            require(
                not near,
                f"{self.title} has the method '{name}', which no event calls; did you mean '{(*near, '')[0]}'? If not, "
                "begin its name with an underscore.",
            )
        some = len(left_out) < len(HOOKS)
        require(some, f"{self.title} is told of nothing: override a hook of RunLogger, {', '.join(HOOKS)}.")

    @check
    def test_random_generators_are_left_alone(self) -> None:
        """No hook changes the state of the generators of torch, numpy and Python, which a training draws from."""
        with temporary_folder() as folder:
            logger = self.made()
            self._require_same_random(logger, "run_started", folder, RUN_EVENTS["run_started"])
            for event, facts in EVENTS.items():
                self._require_same_random(logger, event, folder, "select-finetune", facts)
            self._require_same_random(logger, "run_finished", folder, RUN_EVENTS["run_finished"])

    def _require_same_random(self, logger: RunLogger, event: str, *arguments: Any) -> None:
        # A seed that a hook sets must not be taken for the state that there was.
        torch.rand(1), np.random.rand(), random.random()
        before = _random_states()
        self._call(logger, event, *copy.deepcopy(arguments))
        changed = [name for name, state in _random_states().items() if state != before[name]]
        require(
            not changed,
            f"{self.title} changes the random state of {' and '.join(changed)} in '{event}', on which the rest of a "
            "training depends: draw from a generator of its own, and set no seed.",
        )

    @check
    def test_an_error_never_stops_a_run(self) -> None:
        """Facts that are missing or strange, and a folder that is gone, make it raise nothing that ends a run."""
        with temporary_folder() as folder:
            logger = self.made()
            for event in EVENTS:
                for facts in ({}, {"strange": object()}, dict.fromkeys(EVENTS[event])):
                    self._call(logger, event, folder, "fit", facts)
                self._call(logger, event, folder / "gone", "fit", dict(EVENTS[event]))
            for event, known in RUN_EVENTS.items():
                for facts in ({}, {"strange": object()}, dict.fromkeys(known)):
                    self._call(logger, event, folder, facts)
                self._call(logger, event, folder / "gone", dict(known))

    def _call(self, logger: RunLogger, event: str, *arguments: Any) -> None:
        try:
            getattr(logger, event)(*arguments)
        except Exception:
            # Noted in events.jsonl; the run goes on.
            return
        except BaseException as error:
            raise CheckError(
                f"{self.title} ends the run in '{event}': it raises {type(error).__name__}, which nothing catches."
            ) from error

    @check
    def test_results_do_not_depend_on_it(self) -> None:
        """A run makes the same bits with the logger as without it, and the logger raises no error in it."""
        with temporary_folder() as folder:
            plain = TinyRun(self.registry(), folder / "plain", MEDS)
            plain.run()
            logged = TinyRun(self.registry(), folder / "logged", MEDS, loggers=[self.block()])
            logged.run()
            errors = failures(logged.directory)
            require(not errors, f"{self.title} raises an error in a run: {(*errors, '')[0]}")
            for block in MEDS:
                found = difference(plain.contents(block["type"]), logged.contents(block["type"]))
                require(not found, f"{self.title} changes the results of `{block['type']}`: {found}.")

    @check
    def test_a_failed_stage_is_survived(self) -> None:
        """A run that is stopped in the middle tells it so, and can be finished."""
        with temporary_folder() as folder:
            run = TinyRun(self.registry(), folder, MEDS, loggers=[self.block()])
            try:
                run.run(moments=Moments(5))
            except Stopped:
                run.run()
            errors = failures(run.directory)
            require(not errors, f"{self.title} raises an error in a run that is stopped: {(*errors, '')[0]}")


def _random_states() -> dict[str, Any]:
    """The states of the global generators, as values that can be compared."""
    name, key, *place = np.random.get_state(legacy=True)
    numpy_state = (name, np.asarray(key).tolist(), place)
    return {"torch": torch.get_rng_state().tolist(), "numpy": numpy_state, "random": random.getstate()}


def failures(run: Path) -> list[str]:
    """The errors of loggers that a run directory's events tell of."""
    lines = (run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event["error"] for event in map(json.loads, lines) if event["event"] == "logger_failed"]
