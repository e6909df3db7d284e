"""What a plan will need: disk and memory by arithmetic, time by timing a small piece of each stage."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from meds.core.context import stage_context
from meds.core.feature_cache import FeatureCache
from meds.core.pipeline import Pipeline
from meds.core.plan import PlannedStage
from meds.core.stage import StageContext

_PROBE_IMAGES = 8


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
    return PlanEstimate(
        device=pipeline.runtime.describe(),
        images=len(digests),
        images_to_encode=missing,
        encode_seconds=missing * _encode_seconds(pipeline) if missing else 0.0,
        feature_bytes=pipeline.feature_bytes(),
        cache_limit_bytes=pipeline.features.limit_bytes,
        memory_bytes=_memory_bytes(pipeline),
        stages=tuple(_stage(pipeline, planned) for planned in pipeline.stages),
    )


def _stage(pipeline: Pipeline, planned: PlannedStage) -> StageEstimate:
    done = pipeline.store.has(planned.fingerprint)
    seconds = 0.0 if done else planned.stage.estimate_seconds(_context(pipeline, planned))
    return StageEstimate(planned.name, planned.block.type, planned.fingerprint, done, seconds)


def _encode_seconds(pipeline: Pipeline) -> float:
    """Seconds to decode and encode one image, measured on a few of the run's own images."""
    from meds.core.extract import encode, load_image

    samples = pipeline.data.samples()[:_PROBE_IMAGES]
    pipeline.backbone.to(pipeline.runtime.device)

    def once() -> None:
        images = torch.stack([load_image(pipeline.dataset, sample, pipeline.backbone) for sample in samples])
        encode(pipeline.backbone, images, pipeline.layers, pipeline.runtime)

    once()
    start = time.perf_counter()
    once()
    return (time.perf_counter() - start) / len(samples)


def _memory_bytes(pipeline: Pipeline) -> int:
    """Patch vectors of the largest class in float32 and bf16: what the memory stage holds at once."""
    largest = max(
        sum(sample.class_index == index for sample in pipeline.data.train)
        for index in range(len(pipeline.data.class_names))
    )
    layers = [pipeline.backbone.layer(name) for name in pipeline.layers]
    finest = max(layer.height * layer.width for layer in layers)
    return largest * min(finest, 28 * 28) * sum(layer.channels for layer in layers) * 6


class _RandomFeatures:
    """Stands in for the feature cache while a piece of a stage is timed."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._backbone = pipeline.backbone

    def read(self, digests: Sequence[str], layer: str) -> Tensor:
        """Random maps of the right shape."""
        shape = self._backbone.layer(layer)
        return torch.rand(len(digests), shape.channels, shape.height, shape.width)


def _context(pipeline: Pipeline, planned: PlannedStage) -> StageContext:
    context = stage_context(pipeline, planned.name, features=cast(FeatureCache, _RandomFeatures(pipeline)))
    # A step is timed on copies of the first training image, so by the student that has to know its class.
    first = pipeline.data.train[0].class_index
    return context.within(next(part for part in context.partitions if first in part.class_indices))
