"""The kit for run loggers catches a broken logger with every one of its checks."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit_cases import OF_EVERY_KIT, caught, kit_of, registry_with

from meds.core.events import RunLogger
from meds.testing import RunLoggerKit
from meds.testing.plain_models import PlainStudent
from meds.testing.run_loggers import EVENTS, failures
from meds.testing.tiny_run import MEDS, TinyRun


class Lines(RunLogger):
    """As it should be: writes a line for every stage."""

    def after_stage(self, run, stage, facts):
        with (run / "lines.txt").open("a", encoding="utf-8") as file:
            file.write(f"{stage} {facts['cost']['wall_s']}\n")

    def stage_failed(self, run, stage, facts):
        (run / "failed.txt").write_text(f"{stage} {facts['error']}\n", encoding="utf-8")


class WantsTheLoss(Lines):
    def epoch(self, run, stage, facts):
        self.last = facts["loss"]


class Leaves(Lines):
    def artifact_saved(self, run, stage, facts):
        if "path" not in facts:
            raise KeyboardInterrupt("no path")


class WritesIntoArtifacts(Lines):
    def artifact_saved(self, run, stage, facts):
        (run / "nowhere" / stage).write_text(facts["fingerprint"])


class FailsOnFailures(Lines):
    def stage_failed(self, run, stage, facts):
        raise ValueError("what now?")


def drawing(event: str, draw: Any) -> type[RunLogger]:
    """A logger that draws, or sets a seed, in one of its hooks."""

    def hook(self, *arguments):
        draw()

    return type("Draws", (Lines,), {event: hook})


class Misspelt(RunLogger):
    def on_iteration(self, run, stage, facts):
        """Is never called."""


class Plural(Lines):
    def before_stages(self, run, stage, facts):
        """Is never called."""


class Deaf(RunLogger):
    def close(self):
        """Is never called, and has a name that is like no hook's."""


class WithHelpers(Lines):
    """As it should be: its own methods are like hooks that it has, or like none, or not public."""

    log_after_stage = Lines.after_stage
    upload = Lines.after_stage
    _on_iteration = Lines.after_stage


@pytest.mark.parametrize(
    ("check", "logger", "sentence"),
    [
        ("test_it_loads", print, "which is no class"),
        ("test_every_event_is_survived", WantsTheLoss, "told of an event: KeyError: 'loss'"),
        ("test_hooks_have_their_names", Misspelt, "'on_iteration', which no event calls; did you mean 'iteration'"),
        ("test_hooks_have_their_names", Plural, "'before_stages', which no event calls; did you mean 'before_stage'"),
        ("test_hooks_have_their_names", Deaf, "is told of nothing: override a hook of RunLogger, run_started, .*"),
        (
            "test_random_generators_are_left_alone",
            drawing("iteration", lambda: torch.manual_seed(7)),
            "changes the random state of torch in 'iteration', .*: draw from a generator of its own, and set no seed",
        ),
        (
            "test_random_generators_are_left_alone",
            drawing("epoch", lambda: torch.manual_seed(0)),
            "of torch in 'epoch'",
        ),
        ("test_random_generators_are_left_alone", drawing("run_started", np.random.rand), "of numpy in 'run_started'"),
        ("test_random_generators_are_left_alone", drawing("stage_failed", random.random), "random in 'stage_failed'"),
        ("test_random_generators_are_left_alone", drawing("run_finished", random.random), "random in 'run_finished'"),
        ("test_an_error_never_stops_a_run", Leaves, "ends the run in 'artifact_saved': it raises KeyboardInterrupt"),
        ("test_results_do_not_depend_on_it", WritesIntoArtifacts, "raises an error in a run: .*FileNotFoundError"),
        ("test_a_failed_stage_is_survived", FailsOnFailures, "in a run that is stopped: .*ValueError: what now"),
    ],
)
def test_a_broken_logger_is_caught(check: str, logger: Any, sentence: str) -> None:
    caught(RunLoggerKit, logger, check, sentence)


def test_a_logger_that_changes_the_results_is_caught() -> None:
    """PlainStudent has no randomness in its training, so the logger reaches for the student's class."""

    class Meddles(Lines):
        def before_stage(self, run, stage, facts):
            PlainStudent.loss = lambda self, targets, outputs, progress: (targets[0] - outputs[0]).abs().mean()

    own = PlainStudent.loss
    try:
        sentence = "changes the results of `select-finetune`"
        caught(RunLoggerKit, Meddles, "test_results_do_not_depend_on_it", sentence)
    finally:
        PlainStudent.loss = own


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_run_goes_on_without_a_logger_that_raises(error: type[BaseException], tmp_path: Path) -> None:
    def fail(self: Any, run: Path, stage: str, facts: dict[str, Any]) -> None:
        raise error(stage)

    logger = type("Fails", (RunLogger,), dict.fromkeys(EVENTS, fail))
    run = TinyRun(registry_with("logger", logger), tmp_path, MEDS, loggers=[{"type": "broken"}])
    assert run.run()["classes"]
    assert failures(run.directory) == [f"{error.__name__}: memory"]


def test_methods_of_its_own_are_no_misspelt_hooks() -> None:
    kit_of(RunLoggerKit, WithHelpers).test_hooks_have_their_names()


def test_a_logger_as_it_should_be_passes() -> None:
    kit = kit_of(RunLoggerKit, Lines)
    for check in sorted(set(RunLoggerKit.checks) - OF_EVERY_KIT):
        getattr(kit, check)()


def test_every_check_of_the_kit_catches_something() -> None:
    (marks,) = test_a_broken_logger_is_caught.pytestmark
    assert {check for check, *_ in marks.args[1]} | OF_EVERY_KIT == set(RunLoggerKit.checks)
