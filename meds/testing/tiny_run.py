"""Whole runs on a handful of drawn images with a tiny encoder, through meds' own runner, and runs that are stopped."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from meds.core.context import stage_context
from meds.core.data import RunData
from meds.core.pipeline import Pipeline
from meds.core.plan import PlannedStage
from meds.core.registry import Registry
from meds.core.reporter import ProgressBar
from meds.core.runner import Runner, RunRequest
from meds.core.spec import resolve_spec
from meds.core.spec_source import SpecSource
from meds.core.stage import Scorer, StageContext
from meds.core.store import Artifact
from meds.testing.base import require
from meds.testing.bits import difference
from meds.testing.encoders import CNN
from meds.testing.plain_models import STUDENT
from meds.testing.surroundings import checkpoint_at_every_step

DATASET = {
    "type": "synthetic",
    "classes": ["weave", "discs"],
    "train": 6,
    "test_normal": 2,
    "test_defective": 2,
    "image_size": 64,
}
SPEC: dict[str, Any] = {
    "name": "kit",
    "device": "cpu",
    "precision": "fp32",
    "threads": 1,
    "dataset": DATASET,
    "noise": {"ratio": 0.25},
    "backbone": {"type": CNN},
    "student": {"type": STUDENT},
}
FIT: dict[str, Any] = {"type": "fit", "iterations": 4, "batch_size": 4}
EVALUATE: dict[str, Any] = {"type": "evaluate", "map_size": 32}
MEDS: list[dict[str, Any]] = [
    {"type": "memory"},
    {"type": "distill", "iterations": 4, "batch_size": 4},
    {"type": "select-finetune", "iterations": 4, "batch_size": 4, "minimum_selected": 1},
    EVALUATE,
]
"""The whole method on a tiny scale."""


class Stopped(KeyboardInterrupt):
    """Stands for a person who stops a run: no plugin may hold it up."""


class Moments:
    """Counts the steps of a stage that the outside can see; at one of them it stops the run."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.count = stop_at, 0

    def pass_by(self) -> None:
        """One step."""
        self.count += 1
        if self.count == self.stop_at:
            raise Stopped

    @property
    def stopped(self) -> bool:
        """Whether the run should have ended here."""
        return self.stop_at is not None and self.count >= self.stop_at


class _CountingBar:
    def __init__(self, moments: Moments) -> None:
        self._moments = moments

    def advance(self, steps: int = 1, note: str = "") -> None:  # noqa: ARG002
        self._moments.pass_by()


class _CountingReporter:
    """Shows nothing; every step of a bar is a moment."""

    def __init__(self, moments: Moments) -> None:
        self._moments = moments

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[ProgressBar]:  # noqa: ARG002
        yield _CountingBar(self._moments)

    def say(self, text: str) -> None:
        """Say nothing."""


class _CountingFeatures:
    """The feature cache; every reading is a moment."""

    def __init__(self, features: Any, moments: Moments) -> None:
        self._features, self._moments = features, moments

    def __getattr__(self, name: str) -> Any:
        return getattr(self._features, name)

    def read(self, digests: Sequence[str], layer: str) -> Tensor:
        self._moments.pass_by()
        maps: Tensor = self._features.read(digests, layer)
        return maps


class TinyRun:
    """A run of a few stages in a folder of its own; `changes` are keys of the spec."""

    def __init__(self, registry: Registry, folder: Path, stages: Sequence[Mapping[str, Any]], **changes: Any) -> None:
        self.folder, self.directory = folder, folder / "run"
        self._raw = {**SPEC, **changes, "stages": list(stages)}
        self._begin(registry)

    def _begin(self, registry: Registry, data: RunData | None = None) -> None:
        spec = resolve_spec(SpecSource("the kit's spec", self._raw), registry)
        self.pipeline = Pipeline(spec, registry, self.folder / "home", data)
        self._features = self.pipeline.features

    def variant(self, name: str, data: RunData | None = None, **changes: Any) -> TinyRun:
        """The run with other keys of the spec or other data, in a directory of its own beside the same store."""
        other = copy.copy(self)
        other.directory, other._raw = self.folder / f"run-{name}", {**self._raw, **changes}
        other._begin(self.pipeline.registry, data)
        return other

    def run(
        self, last: str | None = None, again_from: str | None = None, moments: Moments | None = None
    ) -> dict[str, Any]:
        """Run all stages, or those until `last`; `again_from` computes that stage and later ones even if done.

        Returns the metrics, empty if there was no evaluation.
        """
        moments = moments or Moments()
        vars(self.pipeline)["features"] = _CountingFeatures(self._features, moments)
        request = RunRequest(self.directory, again_from, last, force=again_from is not None)
        try:
            return Runner(self.pipeline, request, _CountingReporter(moments)).run() or {}
        finally:
            vars(self.pipeline)["features"] = self._features

    def planned(self, stage: str) -> PlannedStage:
        """A stage of the plan by its name."""
        return next(planned for planned in self.pipeline.stages if planned.name == stage)

    def artifact(self, stage: str) -> Artifact:
        """The finished artifact of a stage."""
        return self.pipeline.store.open(self.planned(stage).fingerprint)

    def contents(self, stage: str) -> dict[str, Any]:
        """Every tensor and every plain value of a stage's artifact by name."""
        artifact = self.artifact(stage)
        found: dict[str, Any] = {f"info.{key}": value for key, value in artifact.info.items()}
        for file in artifact.manifest["files"]:
            stem, _, kind = file.rpartition(".")
            if kind == "safetensors":
                found |= {f"{file}: {name}": value.clone() for name, value in artifact.tensors(stem).items()}
            else:
                found[file] = (artifact.path / file).read_bytes()
        return found

    def context(self, stage: str) -> StageContext:
        """What a stage sees, its inputs being finished."""
        inputs = {
            kind: self.artifact(self.pipeline.stages[position].name)
            for kind, position in self.planned(stage).inputs.items()
        }
        work = self.folder / "work"
        return stage_context(self.pipeline, stage, inputs=inputs, work=work, scorer_of=self._scorer_of)

    def scorer(self, stage: str) -> Scorer:
        """The scorer that a finished stage offers."""
        return self.planned(stage).stage.scorer(self.context(stage), self.artifact(stage))

    def _scorer_of(self, artifact: Artifact) -> Scorer:
        return self.scorer(next(p.name for p in self.pipeline.stages if p.fingerprint == artifact.fingerprint))


def check_repetition(run: TinyRun, stage: str, who: str) -> None:
    """A stage that is computed again makes the same bits, and so does one that is stopped three times on the way."""
    run.run(last=stage)
    wanted, moments = run.contents(stage), Moments()
    run.run(last=stage, again_from=stage, moments=moments)
    found = difference(wanted, run.contents(stage))
    require(not found, f"{who} gives other bits when it is run again with the same seed: {found}.")
    if not moments.count:
        return
    with checkpoint_at_every_step():
        # Early, then late, where only the last part is left to what resumes, and in the beginning of that part.
        stops = (1, max(1, 3 * moments.count // 4), max(1, moments.count // 8))
        if all(_stopped(run, stage, stop_at, who) for stop_at in stops):
            run.run(last=stage, again_from=stage)
    found = difference(wanted, run.contents(stage))
    require(not found, f"{who} gives other bits when it is interrupted and started again: {found}.")


def _stopped(run: TinyRun, stage: str, stop_at: int, who: str) -> bool:
    """Stop a stage at a moment; False if it was finished before that."""
    moments = Moments(stop_at)
    try:
        run.run(last=stage, again_from=stage, moments=moments)
    except Stopped:
        return True
    require(not moments.stopped, f"{who} does not stop when it is interrupted: it catches KeyboardInterrupt.")
    return False
