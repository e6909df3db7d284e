"""Estimates the running statistics of a student's batch normalisation over chosen images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from meds.core.data import Sample
from meds.core.stage import StageContext
from meds.core.student import Student

LARGEST_NUMBER_OF_BATCHES = 32


def has_batch_statistics(student: nn.Module) -> bool:
    """Whether the student normalises by running statistics."""
    return bool(_norms(student))


def estimate_batch_statistics(
    context: StageContext, student: Student, samples: Sequence[Sample], batch_size: int
) -> None:
    """Set the running statistics to the mean over batches of the samples, in their order; weights stay as they are.

    Nothing but batch normalisation is in training mode meanwhile. At most 32 batches are looked at; a rest that is
    smaller than a batch is left out if there is anything else. The student is left in evaluation mode.
    """
    norms = _norms(student)
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    student.eval()
    for norm in norms:
        norm.reset_running_stats()
        # No momentum: every batch weighs the same.
        norm.momentum = None
        norm.train()
    whole = len(samples) // batch_size * batch_size or len(samples)
    with torch.no_grad():
        starts = range(0, min(whole, LARGEST_NUMBER_OF_BATCHES * batch_size), batch_size)
        for chosen, features in context.read_batches(samples[i : i + batch_size] for i in starts):
            with context.runtime.autocast():
                student(features, context.class_tensor(chosen))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    student.eval()


def _norms(student: nn.Module) -> list[_BatchNorm]:
    return [m for m in student.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
