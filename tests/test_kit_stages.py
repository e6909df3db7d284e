"""The kit for stages catches a broken stage with every one of its checks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from kit_cases import OF_EVERY_KIT, caught, kit_of

from meds.core.checkpoint import Checkpoints
from meds.core.errors import PluginError
from meds.core.model import Scores
from meds.core.scoring import patch_distance
from meds.core.stage import Scorer, Stage
from meds.core.student import Student
from meds.testing import StageKit
from meds.testing.stages import SCORED
from meds.testing.tiny_run import Moments, Stopped


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
            context.output.write_tensors("scores", {"maps": torch.zeros(len(context.data.train), 1, 1)})
            context.output.info["distance"] = "cosine"


class OneClassOnly(Centre):
    def run(self, context):
        (_only,) = context.partitions
        super().run(context)


class WritesNothing(Centre):
    produces = "centres"

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


class CountsTests(Centre):
    def run(self, context):
        super().run(context)
        context.output.info["tests"] = len(context.data.test)


class MeansOfTests(Centre):
    """Looks at the pixels of test images, as what fits a normalisation to them does."""

    def run(self, context):
        super().run(context)
        context.output.write_tensors("test", {"mean": context.read_features(context.data.test)[0].mean()})


class WeighsByLabels(Centre):
    def run(self, context):
        super().run(context)
        context.output.info["defects"] = [sample.record.label for sample in context.data.train]


class WeighsByInjected(Centre):
    def run(self, context):
        super().run(context)
        context.output.info["defects"] = [sample.injected for sample in context.data.train]


class ReadsTheReport(Centre):
    def run(self, context):
        super().run(context)
        context.output.info["share"] = context.data.noise["total"]["injected"] / len(context.data.train)


class TrustsPeople(Centre):
    def run(self, context):
        super().run(context)
        context.output.info["confirmed"] = sum(sample.confirmed for sample in context.data.train)


class WithoutAStudent(Centre):
    """As it should be: the same whatever the student is."""

    def student_matters(self, backbone):
        return False


class HidesItsStudent(WithoutAStudent):
    def run(self, context):
        super().run(context)
        student = context.new_student("start")
        context.output.write_tensors("start", {"weights": next(student.parameters()).detach().clone()})


class HidesItsLayers(WithoutAStudent):
    """Finds out about the student by the layers that it needs."""

    def run(self, context):
        super().run(context)
        context.output.info["layers"] = list(context.student_layers())


class HidesItsStudentBehindAMemory(HidesItsStudent):
    produces = "weighed-scores"

    def consumes(self):
        return (("memory-scores",),)


class Declares(CountsTests):
    """As it should be: says what it looks at."""

    def sees_test_images(self):
        return True

    def sees_confirmations(self):
        return True

    def run(self, context):
        super().run(context)
        context.output.info["labels"] = [sample.record.label for sample in context.data.train]
        context.output.info["confirmed"] = sum(sample.confirmed for sample in context.data.train)
        context.output.info["start"] = float(next(context.new_student("start").parameters()).detach().sum())


class TellsNoDistance(Centre):
    def run(self, context):
        super().run(context)
        del context.output.info["distance"]


class OneMapTooFew(Centre):
    def run(self, context):
        super().run(context)
        context.output.write_tensors("scores", {"maps": torch.zeros(len(context.data.train) - 1, 2, 2)})


class DistillsNothing(Centre):
    produces = "distilled-student"


class SelectsForAnotherRun(Centre):
    """Its selection is of more images than there are."""

    produces = "student"

    def run(self, context):
        super().run(context)
        selected = torch.ones(1, len(context.data.train) + 1, dtype=torch.uint8)
        context.output.write_tensors("selection", {"student": selected})
        context.output.write_json("selection", [])


class WithoutAScorer(Centre):
    scorer = Stage.scorer

    def run(self, context):
        super().run(context)
        context.output.write_tensors("student", {"weight": torch.zeros(1)})


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
        (
            "test_dependencies_are_declared",
            CountsTests,
            "with other test images, .*'info.tests' differs; look at",
        ),
        ("test_dependencies_are_declared", MeansOfTests, "other bits with other test images, .* the same name"),
        ("test_dependencies_are_declared", WeighsByLabels, "other labels of the same training images, .*; leave"),
        ("test_dependencies_are_declared", WeighsByInjected, "other labels of the same training images"),
        ("test_dependencies_are_declared", ReadsTheReport, "other labels of the same training images"),
        ("test_dependencies_are_declared", TrustsPeople, "that a person has confirmed, .* let `sees_confirmations`"),
        (
            "test_dependencies_are_declared",
            HidesItsStudent,
            "another student, .* let `student_matters` return True",
        ),
        ("test_dependencies_are_declared", HidesItsLayers, "with another student, .*'info.layers' differs"),
        ("test_dependencies_are_declared", HidesItsStudentBehindAMemory, "with another student"),
        ("test_classes_separate_and_unified", OneClassOnly, "raised ValueError: too many values to unpack"),
        ("test_classes_separate_and_unified", WritesNothing, "ends without a file in its artifact"),
        ("test_both_families_of_encoders", CnnOnly, "raised ValueError: substring not found"),
        ("test_both_families_of_encoders", RefusesAll, "refuses both a CNN and a ViT"),
        ("test_layers_needed_are_known", ReadsTheUnknown, "raised PluginError: .*'stride3'; did you mean"),
        ("test_detectors_run_or_are_refused", StudentsOnly, "refuse it in `check_model` .* raises AttributeError"),
        ("test_scorer", NegativeScores, "scoring, gives a negative score"),
        ("test_scorer", WithoutAScorer, "produces a 'memory-scores', .* and has no scorer: override `scorer`, or"),
        ("test_scorer", GivesTensors, "must give a Scorer, not Tensor"),
        ("test_evaluate_measures_it", OneMapTooFew, r"no file `scores` with a tensor `maps` \[\d+, H, W\]"),
        ("test_evaluate_measures_it", TellsNoDistance, "no `distance` in `context.output.info`, which is cosine or"),
        ("test_evaluate_measures_it", DistillsNothing, "no file `student` with the weights of its student"),
        ("test_evaluate_measures_it", SelectsForAnotherRun, "raised ValueError: operands"),
        ("test_estimate", InfiniteTime, "must estimate its time in seconds, not inf"),
    ],
)
def test_a_broken_stage_is_caught(check: str, stage: Any, sentence: str) -> None:
    caught(StageKit, stage, check, sentence)


@pytest.mark.parametrize("kind", SCORED)
def test_a_kind_that_is_scored_with_needs_a_scorer(kind: str) -> None:
    caught(StageKit, type("Made", (WithoutAScorer,), {"produces": kind}), "test_scorer", f"produces a '{kind}'")


def test_a_result_that_nothing_is_scored_with_needs_no_scorer() -> None:
    kit_of(StageKit, type("Made", (WithoutAScorer,), {"produces": "centres"})).test_scorer()


@pytest.mark.parametrize("stage", [Declares, WithoutAStudent])
def test_a_stage_that_declares_what_it_depends_on_passes(stage: Any) -> None:
    kit_of(StageKit, stage).test_dependencies_are_declared()


def test_a_student_of_the_kit_that_a_stage_refuses_is_no_defect() -> None:
    class Choosy(WithoutAStudent):
        def check_model(self, name, model, backbone):
            if name != "plain-student":
                raise PluginError(f"{name} is not for this stage")

    kit_of(StageKit, Choosy).test_dependencies_are_declared()


def test_a_stage_as_it_should_be_passes() -> None:
    kit = kit_of(StageKit, Centre)
    for check in sorted(set(StageKit.checks) - OF_EVERY_KIT):
        getattr(kit, check)()


def test_every_check_of_the_kit_catches_something() -> None:
    (marks,) = test_a_broken_stage_is_caught.pytestmark
    assert {check for check, *_ in marks.args[1]} | OF_EVERY_KIT == set(StageKit.checks)


def test_an_interruption_is_one_for_every_plugin() -> None:
    moments = Moments(2)
    moments.pass_by()
    with pytest.raises(KeyboardInterrupt):
        moments.pass_by()
    assert moments.stopped
    assert issubclass(Stopped, KeyboardInterrupt)
