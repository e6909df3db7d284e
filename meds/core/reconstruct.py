"""Asks a student for its targets and its reconstruction of them, and holds it to its contract."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from meds.core.errors import PluginError
from meds.core.runtime import Runtime
from meds.core.student import Student


def reconstruct(
    runtime: Runtime, student: Student, features: Sequence[Tensor], classes: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """The targets [B, C_i, H_i, W_i] of a batch, and the student's outputs for them in the run's precision.

    Raises:
        PluginError: the outputs do not have the targets' shapes; those that broadcast would give scores without sense.
    """
    targets = student.targets(features)
    with runtime.autocast():
        outputs = student(features, classes)
    wanted, given = _shapes(targets), _shapes(outputs)
    if given != wanted:
        raise PluginError(
            f"{type(student).__name__}.forward gave {given} for targets with the shapes {wanted}; a student gives a "
            "list with one map for each target, of its shape."
        )
    return targets, outputs


def _shapes(maps: object) -> list[tuple[int, ...]] | str:
    if isinstance(maps, list | tuple) and all(isinstance(one, Tensor) for one in maps):
        return [tuple(one.shape) for one in maps]
    return repr(maps)
