"""The kits for stages, selection rules and run loggers catch broken plugins with every one of their checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit_cases import caught, kit_of, registry_with

from meds.core.checkpoint import Checkpoints
from meds.core.errors import PluginError
from meds.core.events import RunLogger
from meds.core.model import Scores
from meds.core.scoring import patch_distance
from meds.core.selection import SelectionRule
from meds.core.stage import Scorer, Stage
from meds.core.student import Student
from meds.plugins.selection import MedianMad, MedianMadOptions
from meds.testing import RunLoggerKit, SelectionRuleKit, StageKit
from meds.testing.base import Kit
from meds.testing.plain_models import PlainStudent
from meds.testing.run_loggers import EVENTS, failures
from meds.testing.tiny_run import MEDS, Moments, Stopped, TinyRun

OF_EVERY_KIT = {"test_unknown_options_are_refused", "test_options_survive_a_spec", "test_listing_imports_no_torch"}


class Centre(Stage):
    """Distance to the mean map of all training images, read one by one."""

    produces = "memory-scores"

    def layers_needed(self, backbone, student_layers):
        return (backbone.final_layer,)

    def run(self, context):
        maps = [context.read_features([s], (context.backbone.final_layer,))[0][0] for s in context.data.train]
        centre = torch.stack(maps).mean(dim=0)
        scores = patch_distance(torch.stack(maps), centre.expand(len(maps), -1, -1, -1))
        context.output.write_tensors("scores", {"maps": scores, "centre": centre})
        context.output.info["distance"] = "cosine"

    def scorer(self, context, artifact):
        return CentreScorer(context.backbone.final_layer, artifact.tensors("scores")["centre"])


class CentreScorer(Scorer):
    def __init__(self, layer, centre):
        self.layers, self.centre = (layer,), centre

    def scores(self, features, classes):
        return Scores([patch_distance(features[0], self.centre.expand_as(features[0]))])


class Nameless(Centre):
    produces = ""


class WantsTheUnknown(Centre):
    def consumes(self):
        return (("prototypes",),)


class MayWantTheUnknown(Centre):
    def may_consume(self):
        return ("prototypes",)


class WantsATuple(Centre):
    def consumes(self):
        return ("memory-scores",)


class DrawsFromElsewhere(Centre):
    def run(self, context):
        super().run(context)
        context.output.info["noise"] = float(np.random.default_rng().normal())


class CountsTwice(Centre):
    """Goes on from its checkpoint, but looks at the images before it again."""

    def run(self, context):
        super().run(context)
        checkpoints = Checkpoints(context.work, "total")
        total = (checkpoints.load() or {"total": torch.zeros(())})["total"]
        for position, sample in enumerate(context.data.train):
            total = total + context.read_features([sample])[0].mean()
            checkpoints.save(position, {"total": total})
        context.output.info["total"] = float(total)


class GoesOn(Centre):
    def run(self, context):
        try:
            super().run(context)
        except KeyboardInterrupt:
            context.output.write_tensors("scores", {"maps": torch.zeros(3)})


class OneClassOnly(Centre):
    def run(self, context):
        (_only,) = context.partitions
        super().run(context)


class WritesNothing(Centre):
    def run(self, context):
        return


class CnnOnly(Centre):
    def run(self, context):
        context.backbone.layers[0].name.index("stride")
        super().run(context)


class RefusesAll(Centre):
    def check_model(self, name, model, backbone):
        raise PluginError(f"{name} is not for this stage")


class ReadsTheUnknown(Centre):
    def layers_needed(self, backbone, student_layers):
        return ("stride3",)


class StudentsOnly(Centre):
    """Works with the student's targets, and does not refuse a detector."""

    def run(self, context):
        context.new_model("x").targets(context.read_features(context.data.train[:1]))
        super().run(context)


class NegativeScores(Centre):
    def scorer(self, context, artifact):
        found = super().scorer(context, artifact)
        found.scores = lambda features, classes: Scores([features[0][:, 0] * 0 - 1])
        return found


class GivesTensors(Centre):
    def scorer(self, context, artifact):
        return artifact.tensors("scores")["centre"]


class InfiniteTime(Centre):
    def estimate_seconds(self, context):
        return float("inf")


@pytest.mark.parametrize(
    ("check", "stage", "sentence"),
    [
        ("test_it_loads", Student, "must be a subclass of Stage"),
        ("test_kinds_are_declared", Nameless, "must say the kind of its artifact"),
        ("test_kinds_are_declared", WantsTheUnknown, "needs a result of kind prototypes, which no stage makes"),
        ("test_kinds_are_declared", MayWantTheUnknown, "may consume results of kind prototypes, which no stage makes"),
        ("test_kinds_are_declared", WantsATuple, "must consume tuples of kinds, not 'memory-scores'"),
        ("test_same_bits_again_and_after_interruptions", DrawsFromElsewhere, "when it is run again .*'info.noise'"),
        ("test_same_bits_again_and_after_interruptions", CountsTwice, "when it is interrupted .*'info.total'"),
        ("test_same_bits_again_and_after_interruptions", GoesOn, "it catches KeyboardInterrupt"),
        ("test_classes_separate_and_unified", OneClassOnly, "raised ValueError: too many values to unpack"),
        ("test_classes_separate_and_unified", WritesNothing, "ends without a file in its artifact"),
        ("test_both_families_of_encoders", CnnOnly, "raised ValueError: substring not found"),
        ("test_both_families_of_encoders", RefusesAll, "refuses both a CNN and a ViT"),
        ("test_layers_needed_are_known", ReadsTheUnknown, "raised PluginError: .*'stride3'; did you mean"),
        ("test_detectors_run_or_are_refused", StudentsOnly, "refuse it in `check_model` .* raises AttributeError"),
        ("test_scorer", NegativeScores, "scoring, gives a negative score"),
        ("test_scorer", GivesTensors, "must give a Scorer, not Tensor"),
        ("test_estimate", InfiniteTime, "must estimate its time in seconds, not inf"),
    ],
)
def test_a_broken_stage_is_caught(check: str, stage: Any, sentence: str) -> None:
    caught(StageKit, stage, check, sentence)


def test_a_stage_as_it_should_be_passes() -> None:
    kit = kit_of(StageKit, Centre)
    for check in sorted(set(StageKit.checks) - OF_EVERY_KIT):
        getattr(kit, check)()


def rule(function: Any) -> type[SelectionRule]:
    """A rule whose threshold is what the function makes of scores and factor."""

    class Made(SelectionRule):
        def threshold(self, scores, factor):
            return function(scores, factor)

    return Made


class Remembers(SelectionRule):
    calls = 0

    def threshold(self, scores, factor):
        type(self).calls += 1
        return float(scores.median()) + factor * self.calls


def in_place(scores: Any, factor: float) -> float:
    scores.copy_(scores.sort().values)
    return float(scores[len(scores) // 2])


def without_a_scale(scores: Any, factor: float) -> float:
    middle = scores.median()
    return float(middle + factor / (scores - middle).abs().median())


def broken_in_a_run(scores: Any, factor: float) -> float:
    if len(scores) == 8:
        raise RuntimeError("eight is too few")
    return float(scores.median() + factor)


@pytest.mark.parametrize(
    ("check", "found", "sentence"),
    [
        ("test_it_loads", object, "must be a subclass of SelectionRule"),
        ("test_thresholds_are_finite", rule(without_a_scale), "for two scores at the factor 0.0 that is not finite"),
        ("test_thresholds_are_finite", rule(lambda scores, k: scores.median()), "as a Python float, not Tensor"),
        ("test_something_is_selected", rule(lambda scores, k: float(scores.min())), "selects 0 of a hundred"),
        (
            "test_a_larger_factor_keeps_what_was_selected",
            rule(lambda scores, k: float(scores.max()) - k),
            "fall while the factor grows",
        ),
        ("test_order_of_images_plays_no_part", rule(lambda scores, k: float(scores[50])), "the same in another order"),
        ("test_same_scores_give_the_same_threshold", Remembers, "another threshold for the same scores"),
        ("test_same_scores_give_the_same_threshold", rule(in_place), "changes the scores that it is given in place"),
        ("test_selection_runs_with_it", rule(broken_in_a_run), "raised RuntimeError: eight is too few"),
    ],
)
def test_a_broken_selection_rule_is_caught(check: str, found: Any, sentence: str) -> None:
    caught(SelectionRuleKit, found, check, sentence)


def test_a_selection_rule_with_options() -> None:
    kit_of(SelectionRuleKit, MedianMad, MedianMadOptions, options={"median": "middle"}).test_something_is_selected()


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


@pytest.mark.parametrize(
    ("check", "logger", "sentence"),
    [
        ("test_it_loads", print, "which is no class"),
        ("test_every_event_is_survived", WantsTheLoss, "told of an event: WantsTheLoss: KeyError: 'loss'"),
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
    assert failures(run.directory) == [f"Fails: {error.__name__}: memory"]


def test_a_logger_as_it_should_be_passes() -> None:
    kit = kit_of(RunLoggerKit, Lines)
    for check in sorted(set(RunLoggerKit.checks) - OF_EVERY_KIT):
        getattr(kit, check)()


@pytest.mark.parametrize(
    ("kit", "test"),
    [
        (StageKit, test_a_broken_stage_is_caught),
        (SelectionRuleKit, test_a_broken_selection_rule_is_caught),
        (RunLoggerKit, test_a_broken_logger_is_caught),
    ],
)
def test_every_check_of_the_kits_catches_something(kit: type[Kit], test: Any) -> None:
    (marks,) = test.pytestmark
    assert {check for check, *_ in marks.args[1]} | OF_EVERY_KIT == set(kit.checks)


def test_an_interruption_is_one_for_every_plugin() -> None:
    moments = Moments(2)
    moments.pass_by()
    with pytest.raises(KeyboardInterrupt):
        moments.pass_by()
    assert moments.stopped
    assert issubclass(Stopped, KeyboardInterrupt)
