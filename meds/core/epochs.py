"""What a training visits: how many iterations in which batches, and the images of each epoch in their order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from meds.core.seeds import derive_seed
from meds.core.student import Progress, Student, TrainingDefaults


class EpochPlan(Protocol):
    """Decides which images an epoch visits, and in which order."""

    def begin(self, epoch: int, progress: Progress, student: Student) -> Sequence[int]:
        """Positions in the list of samples, in the order of the visit; called at the start of every epoch."""

    def state(self) -> dict[str, Tensor]:
        """What it must remember over a restart."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` gave."""


class AllImages:
    """Every image once an epoch, in a seeded random order, but for those that are held out."""

    def __init__(self, count: int, seed: int, without: Collection[int] = ()) -> None:
        out = set(without)
        self.positions, self.seed = [i for i in range(count) if i not in out], seed

    def begin(self, epoch: int, progress: Progress, student: Student) -> Sequence[int]:  # noqa: ARG002
        """A permutation of the positions."""
        return shuffled(self.positions, self.seed, epoch)

    def state(self) -> dict[str, Tensor]:
        """Nothing: the order follows from seed and epoch."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to restore."""


@dataclass(frozen=True)
class TrainingLength:
    """Iterations, batch size and whether a last small batch is left out."""

    iterations: int
    batch_size: int
    drop_last: bool


def shuffled(positions: Sequence[int], seed: int, epoch: int) -> list[int]:
    """The positions in an order that depends on seed and epoch only."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    order = torch.randperm(len(positions), generator=generator).tolist()
    return [positions[i] for i in order]


def training_length(
    defaults: TrainingDefaults,
    count: int,
    iterations: int | None,
    batch_size: int | None,
    drop_last: bool | None,
) -> TrainingLength:
    """A stage's options over the student's defaults; epochs are turned into iterations for `count` images."""
    size = min(batch_size or defaults.batch_size, count)
    drop = defaults.drop_last if drop_last is None else drop_last
    an_epoch = count // size if drop else -(-count // size)
    published = defaults.iterations or an_epoch * (defaults.epochs or 1)
    return TrainingLength(published if iterations is None else iterations, size, drop)


class LengthOptions(Protocol):
    """What a training stage's options say of its length; None leaves it to the student."""

    @property
    def iterations(self) -> int | None:
        """Number of optimiser steps."""

    @property
    def batch_size(self) -> int | None:
        """Images in a step."""

    @property
    def drop_last(self) -> bool | None:
        """Whether an epoch's last, smaller batch is left out."""


def stage_length(student: Student, count: int, options: LengthOptions) -> TrainingLength:
    """The length of a stage's training of a student on `count` images."""
    return training_length(
        student.training_defaults(), count, options.iterations, options.batch_size, options.drop_last
    )


def batches_of(order: Sequence[int], length: TrainingLength) -> list[list[int]]:
    """Cut an epoch's order into batches; the small rest is dropped only if something else is left."""
    size = length.batch_size
    batches = [list(order[i : i + size]) for i in range(0, len(order), size)]
    if length.drop_last and len(batches) > 1 and len(batches[-1]) < size:
        batches.pop()
    return batches
