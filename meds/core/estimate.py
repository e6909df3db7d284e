"""What a plan will need: sizes by arithmetic, times by counts (`workload`) and by timing pieces of the stages."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from meds.core.context import stage_context
from meds.core.data import Sample
from meds.core.extract import extract_features
from meds.core.feature_cache import FeatureCache
from meds.core.pipeline import Pipeline
from meds.core.plan import PlannedStage
from meds.core.reporter import SilentReporter
from meds.core.stage import StageContext
from meds.core.store import Artifact

_WARM_UP_IMAGES = 4
_PROBE_IMAGES = 32
_PROBE_SECONDS = 4.0


@dataclass(frozen=True)
class StageEstimate:
    """One stage: whether it is done, and the seconds it should take (None if the stage cannot tell)."""

    name: str
    type: str
    fingerprint: str
    done: bool
    seconds: float | None


@dataclass(frozen=True)
class PlanEstimate:
    """What a plan needs on this machine. Sizes in bytes, times in seconds."""

    device: str
    images: int
    images_to_encode: int
    encode_seconds: float
    feature_bytes: int
    cache_limit_bytes: int
    memory_bytes: int
    stages: tuple[StageEstimate, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**self.__dict__, "stages": [stage.__dict__ for stage in self.stages]}


def estimate(pipeline: Pipeline) -> PlanEstimate:
    """Estimate a plan without running it; takes a few seconds, because pieces of the stages are timed."""
    digests = list(dict.fromkeys(sample.digest for sample in pipeline.data.samples()))
    missing = len(pipeline.features.missing(digests, pipeline.layers))
    with _probe(pipeline, bool(missing)) as (features, seconds):
        return PlanEstimate(
            device=pipeline.runtime.describe(),
            images=len(digests),
            images_to_encode=missing,
            encode_seconds=missing * seconds,
            feature_bytes=pipeline.feature_bytes(),
            cache_limit_bytes=pipeline.features.limit_bytes,
            memory_bytes=max(_held_bytes(pipeline, planned, features) for planned in pipeline.stages),
            stages=tuple(_stage(pipeline, planned, features) for planned in pipeline.stages),
        )


def _held_bytes(pipeline: Pipeline, planned: PlannedStage, features: _ProbeFeatures) -> int:
    """What a stage holds, with the scorer's part if it evaluates one."""
    held = planned.stage.estimate_bytes(_context(pipeline, planned, features))
    scorers = [kind for kinds in planned.stage.consumes()[:1] for kind in kinds if kind in planned.inputs]
    if planned.stage.produces == "evaluation" and scorers:
        source = pipeline.stages[planned.inputs[scorers[0]]]
        held += source.stage.scorer_bytes(_context(pipeline, source, features))
    return held


def _stage(pipeline: Pipeline, planned: PlannedStage, features: _ProbeFeatures) -> StageEstimate:
    planned.stage.check(_context(pipeline, planned, features))
    done = pipeline.store.has(planned.fingerprint)
    seconds = 0.0 if done else planned.stage.estimate_seconds(_context(pipeline, planned, features))
    return StageEstimate(planned.name, planned.block.type, planned.fingerprint, done, seconds)


class _ProbeFeatures:
    """The features of a few of the run's own images, which stand for those of all others."""

    def __init__(self, cache: FeatureCache, digests: Sequence[str]) -> None:
        self._cache, self._digests = cache, digests

    def read(self, digests: Sequence[str], layer: str) -> Tensor:
        """Maps [n, C, H, W] of the right shape and dtype."""
        return self._cache.read([self._digests[i % len(self._digests)] for i in range(len(digests))], layer)


@contextmanager
def _probe(pipeline: Pipeline, compute: bool) -> Iterator[tuple[_ProbeFeatures, float]]:
    """Features of a few training images and, if they are computed, as a run does it, the seconds that each took."""
    samples = list({sample.digest: sample for sample in pipeline.data.train}.values())
    if not compute:
        yield _ProbeFeatures(pipeline.features, [sample.digest for sample in samples[:_PROBE_IMAGES]]), 0.0
        return
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(Path(folder), "probe", pipeline.features.limit_bytes)
        first = samples[:_WARM_UP_IMAGES]
        _extract(pipeline, cache, first)
        # Once more, because the first batch pays for threads, kernels and memory; into a place of its own.
        with tempfile.TemporaryDirectory() as other:
            again = FeatureCache(Path(other), "probe", pipeline.features.limit_bytes)
            seconds = _extract(pipeline, again, first)
        affordable = max(_WARM_UP_IMAGES, int(_PROBE_SECONDS / seconds))
        more = samples[_WARM_UP_IMAGES:][: min(_PROBE_IMAGES, affordable)]
        if more:
            seconds = _extract(pipeline, cache, more)
        yield _ProbeFeatures(cache, [sample.digest for sample in (*first, *more)]), seconds


def _extract(pipeline: Pipeline, cache: FeatureCache, samples: Sequence[Sample]) -> float:
    """Seconds an image to decode, encode and store."""
    start = time.perf_counter()
    extract_features(
        pipeline.dataset, samples, pipeline.backbone, pipeline.layers, cache, pipeline.runtime, SilentReporter()
    )
    return (time.perf_counter() - start) / len(samples)


def _context(pipeline: Pipeline, planned: PlannedStage, features: _ProbeFeatures) -> StageContext:
    """A context whose inputs say what kind they are and hold nothing, for the student of the first training image."""
    inputs = {kind: Artifact(Path(), {"kind": kind}) for kind in planned.inputs}
    context = stage_context(pipeline, planned.name, inputs=inputs, features=cast(FeatureCache, features))
    first = pipeline.data.train[0].class_index
    return context.within(next(part for part in context.partitions if first in part.class_indices))
