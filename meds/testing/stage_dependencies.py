"""Whether a stage declares what its result depends on, beside its options and inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from meds.core.data import RunData, Sample
from meds.core.dataset import ANOMALOUS, NORMAL
from meds.core.errors import PluginError
from meds.testing.base import require
from meds.testing.bits import difference
from meds.testing.plain_models import OTHER_STUDENT, STUDENT
from meds.testing.tiny_run import TinyRun


def check_dependencies(run: TinyRun, stage: str, who: str) -> None:
    """Where a finished stage keeps its name with other data or another student, it makes the same bits.

    Only the stage itself is computed again, unless a stage before it has another name with the change.
    """
    wanted, fingerprint = run.contents(stage), run.planned(stage).fingerprint
    for name, (changed, advice) in CHANGES.items():
        try:
            other = changed(run)
            if other.planned(stage).fingerprint != fingerprint:
                continue
        except PluginError:  # a stage may refuse the other student
            continue
        other.run(last=stage, again_from=stage)
        found = difference(wanted, other.contents(stage))
        require(
            not found,
            f"{who} gives other bits with {name}, and its result has the same name as before: {found}; {advice}.",
        )


def _with_data(run: TinyRun, name: str, **changes: Any) -> TinyRun:
    return run.variant(name, replace(run.pipeline.data, **changes))


def other_tests(run: TinyRun) -> TinyRun:
    """The run with half of its test images, in another order, labels and masks exchanged."""
    return _with_data(run, "tests", test=tuple(_relabelled(sample) for sample in run.pipeline.data.test[::-2]))


def other_labels(run: TinyRun) -> TinyRun:
    """The run with the same training images, of which other things are known."""
    data = run.pipeline.data
    train = tuple(replace(_relabelled(sample), injected=not sample.injected) for sample in data.train)
    return _with_data(run, "labels", train=train, noise=_other_noise(data))


def confirmed(run: TinyRun) -> TinyRun:
    """The run with half of its training images confirmed to be normal."""
    train = tuple(replace(sample, confirmed=i % 2 == 0) for i, sample in enumerate(run.pipeline.data.train))
    return _with_data(run, "confirmed", train=train)


def other_student(run: TinyRun) -> TinyRun:
    """The run with another student, of the kit's two."""
    known = run.pipeline.spec.student.type
    return run.variant("student", run.pipeline.data, student={"type": OTHER_STUDENT if known == STUDENT else STUDENT})


CHANGES: Mapping[str, tuple[Callable[[TinyRun], TinyRun], str]] = {
    "other test images": (other_tests, "look at training images only, or let `sees_test_images` return True"),
    "other labels of the same training images": (
        other_labels,
        "leave labels, defect types, masks and `injected` of training images alone, which are there to measure with, "
        "or let `sees_test_images` return True",
    ),
    "images that a person has confirmed": (
        confirmed,
        "leave `confirmed` alone, or let `sees_confirmations` return True",
    ),
    "another student": (other_student, "use no student and none of its layers, or let `student_matters` return True"),
}
"""Each change by what it is called: the run with it, and what a stage does that depends on it."""


def _relabelled(sample: Sample) -> Sample:
    """The image with another label; a defect has no mask any more, because a drawn image cannot get one."""
    defective = sample.record.label == ANOMALOUS
    label, defect = (NORMAL, "good") if defective else (ANOMALOUS, "dent")
    return replace(sample, record=replace(sample.record, label=label, defect=defect, mask=None), mask_digest="")


def _other_noise(data: RunData) -> dict[str, Any]:
    """The noise report with other counts of injected images."""
    rows = {name: {**row, "injected": row["injected"] + 1} for name, row in data.noise["classes"].items()}
    return {**data.noise, "classes": rows, "total": {**data.noise["total"], "injected": len(data.train)}}
