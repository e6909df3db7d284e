"""The kit for stages: steps of a pipeline that turn artifacts into one artifact."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar
from unittest import SkipTest

import torch

from meds.core.errors import PluginError, UserError
from meds.core.registry import Registry
from meds.core.stage import Scorer, Stage
from meds.testing.base import CheckError, Kit, check, described, require
from meds.testing.models import check_scores
from meds.testing.plain_models import DETECTOR
from meds.testing.stage_dependencies import check_dependencies
from meds.testing.surroundings import temporary_folder
from meds.testing.tiny_run import TinyRun, check_repetition

SHORT: dict[str, dict[str, Any]] = {
    # The final layer: a memory that is the same with every student, and works with a detector.
    "memory": {"features": "final"},
    "distill": {"iterations": 4, "batch_size": 4},
    "fit": {"iterations": 4, "batch_size": 4},
    "select-finetune": {"iterations": 4, "batch_size": 4, "minimum_selected": 1},
}
"""Options of the stages before it, by which they are quick."""
PREFERRED = ("memory", "distill", "fit")
"""Where several stages make what is needed, one of these is taken."""
SCORED = ("student", "distilled-student", "memory-scores")
"""Kinds of artifacts that the stage `evaluate` scores images with."""


class StageKit(Kit):
    """Every check of the contract `Stage`.

    Attributes:
        before: the stages that make what it needs, as blocks of a spec; None: installed stages are found by the
            kinds of their artifacts.
        student: the student of the run, as a block of a spec; None: the kit's own.
    """

    kind = "stage"
    contract = Stage
    before: ClassVar[Sequence[Mapping[str, Any]] | None] = None
    student: ClassVar[Mapping[str, Any] | None] = None

    def made(self) -> Stage:
        """The stage."""
        stage: Stage = self.implementation()(self.made_options())
        return stage

    def stages_before(self) -> list[dict[str, Any]]:
        """The stages that make what it needs."""
        if self.before is not None:
            return [dict(block) for block in self.before]
        found: dict[str, dict[str, Any]] = {}
        for kinds in self.made().consumes():
            _add_maker(self.registry(), kinds, found, self)
        return list(found.values())

    @contextmanager
    def _run(self, **changes: Any) -> Iterator[TinyRun]:
        with temporary_folder() as folder:
            students = {} if self.student is None else {"student": dict(self.student)}
            stages = [*self.stages_before(), self.block()]
            yield TinyRun(self.registry(), folder, stages, **students, **changes)

    @check
    def test_kinds_are_declared(self) -> None:
        """`produces` is a kind, and every kind that it consumes is made by an installed stage."""
        stage = self.made()
        kind = getattr(stage, "produces", None)
        good = isinstance(kind, str) and bool(kind.strip())
        require(good, f"{self.title} must say the kind of its artifact, `produces`, as a text, not {kind!r}.")
        made = {_produces(registration.load()) for registration in _stages(self.registry())}
        for kinds in stage.consumes():
            texts = isinstance(kinds, tuple) and bool(kinds) and all(isinstance(kind, str) for kind in kinds)
            require(texts, f"{self.title} must consume tuples of kinds, not {kinds!r}.")
            known = set(kinds) & made
            require(bool(known), f"{self.title} needs a result of kind {' or '.join(kinds)}, which no stage makes.")
        unknown = set(stage.may_consume()) - made
        require(not unknown, f"{self.title} may consume results of kind {', '.join(unknown)}, which no stage makes.")

    @check
    def test_same_bits_again_and_after_interruptions(self) -> None:
        """It makes the same bits when it is run twice, and when it is stopped three times and resumed."""
        with self._run() as run:
            check_repetition(run, self.name, self.title)
            made = run.artifact(self.name).kind
            require(made == self.made().produces, f"{self.title} makes an artifact of the kind '{made}'.")

    @check
    def test_dependencies_are_declared(self) -> None:
        """With other test images, other labels, confirmations or another student it makes the same bits, or says so."""
        # Where these are not part of the result's name, a stored result would be taken for that of other data.
        with self._run() as run:
            run.run(last=self.name)
            check_dependencies(run, self.name, self.title)

    @check
    def test_classes_separate_and_unified(self) -> None:
        """It runs with one student for all classes and with one for each."""
        for classes in ("unified", "separate"):
            with self._run(classes=classes) as run:
                run.run()
                require(
                    bool(run.artifact(self.name).manifest["files"]),
                    f"{self.title} ends without a file in its artifact (classes: {classes}).",
                )

    @check
    def test_both_families_of_encoders(self) -> None:
        """It runs on a ViT as on a CNN, or refuses one with a PluginError."""
        refused = []
        for encoder in ("random-cnn", "random-vit"):
            try:
                with self._run(backbone={"type": encoder}) as run:
                    run.run()
            except PluginError as error:
                require(bool(str(error).strip()), f"{self.title} refuses the encoder {encoder} without saying why.")
                refused.append(encoder)
        require(len(refused) < 2, f"{self.title} refuses both a CNN and a ViT.")

    @check
    def test_layers_needed_are_known(self) -> None:
        """It names layers that the backbone has, or can derive."""
        with self._run() as run:
            pipeline = run.pipeline
            names = self.made().layers_needed(pipeline.backbone, pipeline.student_layers)
            require(isinstance(names, tuple), f"{self.title} must name its layers as a tuple, not {names!r}.")
            for name in names:
                pipeline.backbone.layer(name)

    @check
    def test_detectors_run_or_are_refused(self) -> None:
        """With a detector in place of the student it runs, or `check_model` refuses it with a PluginError."""
        # The stage fit takes no length with a detector.
        stages = [
            {"type": "fit"} if block["type"] == "fit" else block for block in [*self.stages_before(), self.block()]
        ]
        try:
            with temporary_folder() as folder:
                TinyRun(self.registry(), folder, stages, student={"type": DETECTOR}).run()
        except PluginError as error:
            require(bool(str(error).strip()), f"{self.title} refuses a detector without saying why.")
        except Exception as error:
            raise CheckError(
                f"{self.title} must run with a detector or refuse it in `check_model` with a PluginError, and raises "
                f"{described(error)}"
            ) from error

    @check
    def test_scorer(self) -> None:
        """It scores images if its kind promises so, and the scores are float32 [B, H, W], finite and not negative."""
        with self._run() as run:
            run.run()
            try:
                scorer = run.scorer(self.name)
            except UserError as error:
                require(bool(str(error).strip()), f"{self.title} has no scorer and does not say so.")
                kind = self.made().produces
                require(
                    kind not in SCORED,
                    f"{self.title} produces a '{kind}', with which `evaluate` scores images, and has no scorer: "
                    "override `scorer`, or name another kind in `produces`.",
                )
                return
            require(isinstance(scorer, Scorer), f"{self.title} must give a Scorer, not {type(scorer).__name__}.")
            context = run.context(self.name)
            samples = context.data.test
            with torch.inference_mode():
                scores = scorer.scores(context.read_features(samples, scorer.layers), context.class_tensor(samples))
                check_scores(f"{self.title}, scoring,", scores, len(samples))
                known = scorer.training_scores()
            if known is not None:
                check_scores(f"{self.title}, asked for its training images,", known, len(context.data.train))

    @check
    def test_evaluate_measures_it(self) -> None:
        """A run of it and of the stage `evaluate` ends with metrics, if its kind is one that `evaluate` scores with."""
        kind = self.made().produces
        if kind not in SCORED:
            raise SkipTest(f"`evaluate` scores nothing with results of the kind '{kind}'")
        with self._run() as run:
            stages = [*self.stages_before(), self.block(), {"type": "evaluate"}]
            metrics = run.variant("measured", stages=stages).run()
            require(bool(metrics), f"{self.title} cannot be measured: the stage `evaluate` behind it gives no metrics.")

    @check
    def test_estimate(self) -> None:
        """The estimate of its time is a number of seconds, or None if it cannot tell."""
        with self._run() as run:
            run.run()
            seconds = self.made().estimate_seconds(run.context(self.name))
            good = seconds is None or (math.isfinite(seconds) and seconds >= 0)
            require(good, f"{self.title} must estimate its time in seconds, not {seconds!r}.")


def _add_maker(registry: Registry, kinds: Sequence[str], found: dict[str, dict[str, Any]], kit: StageKit) -> None:
    """Add a stage that makes one of these kinds, the best first, behind the stages that it needs itself."""
    for kind in kinds:
        makers = [r for r in _stages(registry) if _produces(r.load()) == kind and r.plugin.name != kit.name]
        makers.sort(key=lambda r: PREFERRED.index(r.plugin.name) if r.plugin.name in PREFERRED else len(PREFERRED))
        for maker in makers[:1]:
            name = maker.plugin.name
            options = SHORT.get(name, {})
            for needed in maker.load()(maker.plugin.options.model_validate(options)).consumes():
                _add_maker(registry, needed, found, kit)
            found.setdefault(name, {"type": name, **options})
            return
    raise CheckError(f"{kit.title} needs a result of kind {' or '.join(kinds)}, which no installed stage makes.")


def _stages(registry: Registry) -> list[Any]:
    return [registry.get("stage", name) for name in registry.names("stage")]


def _produces(stage: Any) -> Any:
    return getattr(stage, "produces", None)
