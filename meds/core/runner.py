"""Runs a plan: decides stage by stage whether to compute, and keeps everything that is finished."""

from __future__ import annotations

import contextlib
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meds.core import files
from meds.core.artifact_kinds import check_output
from meds.core.context import stage_context
from meds.core.errors import ArtifactError, MedsError, PluginError, UserError
from meds.core.events import Events, RunLogger
from meds.core.extract import extract_features
from meds.core.in_use import in_use
from meds.core.pipeline import Pipeline
from meds.core.plan import PlannedStage, span
from meds.core.reporter import Reporter
from meds.core.run_directory import LOCK, POINTER, RunDirectory
from meds.core.run_state import RunState, manifest_of
from meds.core.runtime import CostMeter
from meds.core.spec import EARLIER, Block
from meds.core.stage import Scorer, StageContext
from meds.core.store import Artifact, ArtifactWriter, NoOutput, locked


@dataclass(frozen=True)
class RunRequest:
    """What to run of a plan, and where."""

    directory: Path
    first: str | None = None
    last: str | None = None
    force: bool = False


class Runner:
    """Runs one request; every finished stage is kept, whatever happens to the next.

    Raises:
        UserError: the plan has no such stages, or one before the first has no stored result (on making one).
    """

    def __init__(self, pipeline: Pipeline, request: RunRequest, reporter: Reporter) -> None:
        self.pipeline, self.request, self.reporter = pipeline, request, reporter
        self.directory = RunDirectory(request.directory)
        self.wanted = span(pipeline.stages, request.first, request.last)
        for planned in pipeline.stages[: self.wanted.start]:
            if not pipeline.store.has(planned.fingerprint):
                raise self._lacks(planned)
        self.artifacts: list[Artifact | None] = []

    def run(self) -> dict[str, Any] | None:
        """Run the stages; returns the metrics if an evaluation was among them."""
        with files.full_disk_is_a_user_error(self.request.directory):
            self.request.directory.mkdir(parents=True, exist_ok=True)
            waiting = f"Another run writes to {self.request.directory}; waiting until it has finished."
            with locked(self.request.directory / LOCK, waiting, self.reporter.say):
                return self._run()

    def check(self) -> None:
        """Refuse what the wanted stages cannot work with, before anything is written; stored ones have been checked.

        Raises:
            MedsError: one sentence about it, see `Stage.check`.
        """
        for planned in self.pipeline.stages[self.wanted.start : self.wanted.stop]:
            if self.request.force or not self.pipeline.store.has(planned.fingerprint):
                planned.stage.check(stage_context(self.pipeline, planned.name))

    def _run(self) -> dict[str, Any] | None:
        pipeline, wanted = self.pipeline, self.wanted
        # Before the directory is changed: what cannot begin must cost nothing.
        loggers = self._loggers()
        self.check()
        put_away = self.directory.prepare(
            pipeline.spec.to_yaml(), pipeline.data, {planned.name: planned.fingerprint for planned in pipeline.stages}
        )
        self.events = Events(self.request.directory, loggers, self.reporter.say)
        self.state = RunState(pipeline, self.directory)
        self.state.write("running")
        self.events.started(pipeline.spec.name, pipeline.spec.dump())
        if put_away:
            self.reporter.say(
                f"What {self.request.directory} held is of other images, options or code; it lies in "
                f"{self.request.directory / EARLIER} now."
            )
        self._say_data()
        try:
            with in_use(pipeline.features.folder):
                metrics = self._run_stages(wanted)
        except BaseException as error:
            self._failed(error)
            raise
        self._note_later_ones()
        self.state.write("done" if self.state.all_done() else "partly done")
        self.events.finished(metrics)
        return metrics

    def _run_stages(self, wanted: range) -> dict[str, Any] | None:
        metrics = None
        self.artifacts = [None] * len(self.pipeline.stages)
        for position, planned in enumerate(self.pipeline.stages[: wanted.stop]):
            artifact = self._finished(planned, position)
            if position < wanted.start:
                if artifact is None:
                    raise self._lacks(planned)
            elif artifact is None or self.request.force:
                artifact = self._compute(planned, position)
            self.artifacts[position] = artifact
            self.directory.point_to(planned.name, artifact)
            if artifact.kind == "student":
                self.directory.write_selection(self.pipeline.data, artifact)
            if artifact.kind == "evaluation":
                metrics = self.directory.write_evaluation(planned.name, self.pipeline.data, artifact)
        return metrics

    def _note_later_ones(self) -> None:
        """Stages after the last one wanted may have been computed before; then they are done as well."""
        if self.request.force:  # what they read has been made anew
            return
        for position, planned in list(enumerate(self.pipeline.stages))[self.wanted.stop :]:
            if (
                self.pipeline.store.has(planned.fingerprint)
                and (self.request.directory / planned.name / POINTER).is_file()
            ):
                with contextlib.suppress(ArtifactError):
                    self.state.note(position, "done", self.pipeline.store.open(planned.fingerprint))

    def _lacks(self, planned: PlannedStage) -> UserError:
        return UserError(
            f"The stage `{planned.name}` comes before `{self.request.first}` and has no stored result "
            f"({planned.fingerprint[:12]}); run the whole spec with `meds run`."
        )

    def _finished(self, planned: PlannedStage, position: int) -> Artifact | None:
        """The stored artifact of a stage, None if it is missing or damaged (which is said)."""
        try:
            return self._stored(planned, position)
        except ArtifactError:
            # Another run may be about to replace it.
            with self._right_to_write(planned):
                return self._whole(planned, position)

    def _whole(self, planned: PlannedStage, position: int) -> Artifact | None:
        """As `_finished`, for who holds the right to write it: what is damaged is removed."""
        try:
            return self._stored(planned, position)
        except ArtifactError as error:
            self.reporter.say(f"{error} The stage `{planned.name}` is computed again.")
            self.events.emit("artifact_damaged", stage=planned.name, error=str(error))
            self.pipeline.store.discard(planned.fingerprint)
            return None

    def _stored(self, planned: PlannedStage, position: int) -> Artifact | None:
        """The stored artifact, noted as done; None if there is none, ArtifactError if it is damaged."""
        store = self.pipeline.store
        if not store.has(planned.fingerprint):
            return None
        artifact = store.open(planned.fingerprint)
        self.state.note(position, "done", artifact)
        return artifact

    def _right_to_write(self, planned: PlannedStage) -> AbstractContextManager[None]:
        waiting = f"Another run computes the stage `{planned.name}`; waiting until it has finished."
        return self.pipeline.store.lock(planned.fingerprint, waiting, self.reporter.say)

    def _compute(self, planned: PlannedStage, position: int) -> Artifact:
        store = self.pipeline.store
        with self._right_to_write(planned):
            if not self.request.force:
                made_elsewhere = self._whole(planned, position)
                if made_elsewhere is not None:
                    return made_elsewhere
            self._extract()
            self.state.note(position, "running", None)
            self.state.write("running")
            self.events.emit("before_stage", stage=planned.name, fingerprint=planned.fingerprint)
            meter = CostMeter(self.pipeline.runtime.device)
            work = store.work(planned.fingerprint)
            work.mkdir(parents=True, exist_ok=True)
            files.remove_leftovers(work)
            output = ArtifactWriter(work / "output")
            context = self._context(planned, output, work)
            planned.stage.run(context)
            check_output(planned.stage.produces, context, output)
            cost = {**meter.stop(), "bytes": output.bytes_written()}
            artifact = output.finish(store.path(planned.fingerprint), manifest_of(self.pipeline, planned, cost))
            shutil.rmtree(work)
        self.state.note(position, "done", artifact)
        self.state.write("running")
        self.events.emit(
            "artifact_saved", stage=planned.name, fingerprint=artifact.fingerprint, path=str(artifact.path)
        )
        self.events.emit("after_stage", stage=planned.name, cost=cost)
        return artifact

    def _context(self, planned: PlannedStage, output: ArtifactWriter, work: Path) -> StageContext:
        pipeline = self.pipeline
        inputs = {}
        for kind, source in planned.inputs.items():
            artifact = self.artifacts[source]
            assert artifact is not None  # the plan runs in order
            inputs[kind] = artifact
        return stage_context(
            pipeline,
            planned.name,
            inputs=inputs,
            output=output,
            work=work,
            reporter=self.reporter,
            emit=self.events.emit,
            scorer_of=self._scorer_of,
        )

    def _scorer_of(self, artifact: Artifact) -> Scorer:
        """The scorer that the stage which made an artifact offers."""
        for position, made in enumerate(self.artifacts):
            if made is not None and made.fingerprint == artifact.fingerprint:
                planned = self.pipeline.stages[position]
                work = self.pipeline.store.work(planned.fingerprint)
                context = self._context(planned, NoOutput(), work)
                return planned.stage.scorer(context, artifact)
        raise ArtifactError(f"No stage of this run made the artifact {artifact.fingerprint}.")

    def _loggers(self) -> list[tuple[str, RunLogger]]:
        return [(block.type, _logger(block)) for block in self.pipeline.spec.loggers]

    def _extract(self) -> None:
        """Fill the feature cache before the first stage that is computed; a finished run needs no features."""
        if "features" in self.state.data:
            return
        pipeline = self.pipeline
        meter = CostMeter(pipeline.runtime.device)
        waiting = "Another run computes features of this encoder; waiting until it has finished."
        with pipeline.store.lock(f"features-{pipeline.features.folder.name}", waiting, self.reporter.say):
            encoded = extract_features(
                pipeline.dataset,
                pipeline.data.samples(),
                pipeline.backbone,
                pipeline.layers,
                pipeline.features,
                pipeline.runtime,
                self.reporter,
            )
        cost = {**meter.stop(), "images": encoded, "bytes": pipeline.feature_bytes()}
        self.state.data["features"] = cost
        self.events.emit("features", **cost)

    def _say_data(self) -> None:
        data = self.pipeline.data
        classes = len(data.class_names)
        self.reporter.say(
            f"{len(data.train)} training and {len(data.test)} test images of {classes} class{'es' * (classes != 1)}."
        )
        if data.unreadable:
            count = len(data.unreadable)
            verb = "image is" if count == 1 else "images are"
            self.reporter.say(f"{count} unreadable {verb} left out (see unreadable.txt).")

    def _failed(self, error: BaseException) -> None:
        stopped = _is_a_stop(error)
        text = "It was stopped." if stopped else f"{type(error).__name__}: {error}"
        for name in self.state.end("stopped" if stopped else "failed", text):
            self.events.emit("stage_failed", stage=name, error=text, stopped=stopped)


def _is_a_stop(error: BaseException | None) -> bool:
    """Whether somebody has stopped the run: Ctrl-C and SIGTERM, of which a library may make an error of its own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _logger(block: Block) -> RunLogger:
    """The logger of a block; PluginError if it cannot be made."""
    kind = block.registration.load(RunLogger)
    try:
        logger: RunLogger = kind(block.options)
    except MedsError:
        raise
    except Exception as error:
        raise PluginError(f"The logger '{block.type}' cannot be made: {type(error).__name__}: {error}.") from error
    return logger
