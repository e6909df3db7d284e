"""Times small pieces of the stages, for estimates: training steps as the real loop takes them, passes over images."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from meds.core.checkpoint import Checkpoints
from meds.core.data import Sample
from meds.core.epochs import AllImages, LengthOptions, TrainingLength, stage_length
from meds.core.runtime import wait_for_device
from meds.core.stage import StageContext
from meds.core.student import Student
from meds.core.training import Objective, train

_FEW_STEPS = 3
_MORE_STEPS = 13
_QUICK_SECONDS = 0.5


def step_seconds(context: StageContext, student: Student, objective: Objective, batch_size: int) -> float:
    """Seconds of one training step: the median over steps of the real loop, without the first, which is slower.

    Quick steps are timed more often. The student is trained in place.
    """
    taken = _steps(context, student, objective, batch_size, _FEW_STEPS)
    if max(taken) < _QUICK_SECONDS:
        taken = _steps(context, student, objective, batch_size, _MORE_STEPS)
    return statistics.median(taken)


def training_seconds(context: StageContext, options: LengthOptions, objective: Objective, holdout: float = 0) -> float:
    """Seconds of a whole training with a stage's options, over all partitions; a share is held out."""
    total, known = 0.0, dict[int, float]()
    student = context.new_student("estimate")
    for partition in context.partitions:
        images = round((1 - holdout) * len(partition.positions(context.data.train)))
        length = stage_length(student, max(1, images), options)
        if not length.iterations:
            continue
        size = length.batch_size
        if size not in known:
            known[size] = step_seconds(context, student, objective, size)
        total += length.iterations * known[size]
    return total


def seconds_of(work: Callable[[], object]) -> float:
    """The shorter wall seconds of two calls: the first one also warms caches."""
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        wait_for_device()
        taken.append(time.perf_counter() - start)
    return min(taken)


def probes(context: StageContext, count: int) -> list[Sample]:
    """So many training images of the context's classes, the same ones again where there are fewer."""
    train = context.data.train
    positions = range(len(train)) if context.own is None else context.own.positions(train)
    return [train[positions[i % len(positions)]] for i in range(count)]


def _steps(context: StageContext, student: Student, objective: Objective, batch_size: int, steps: int) -> list[float]:
    times: list[float] = []

    def timed(*arguments: Any) -> Tensor:
        times.append(time.perf_counter())
        return objective(*arguments)

    samples = probes(context, steps * batch_size)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder))
        checkpoints.interval = float("inf")
        length = TrainingLength(steps, batch_size, False)
        train(context, student, samples, timed, AllImages(len(samples), 0), length, checkpoints, "estimate")
    times.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(times)][1:]
