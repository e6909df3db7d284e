"""The stage evaluate: its options stand over the student's own evaluation."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hvq_cases import HVQ, SMALL
from stage_cases import make_context

from meds.core.model import EvaluationDefaults
from meds.plugins.students.hvq import HVQOptions
from meds.stages.evaluate import Evaluate
from meds.stages.options import EvaluateOptions

GIVEN: dict[str, Any] = {
    "map_size": 64,
    "smoothing": "gaussian5",
    "sigma": 2.0,
    "image_score": "max",
    "top_fraction": 0.5,
    "pool_window": 4,
    "mask_rule": "half",
    "mask_resize": "bilinear",
}


def evaluation(folder: Path, **options: Any) -> EvaluationDefaults:
    context = make_context([torch.randn(4, 6, 4, 4)], ["a", "b", "b", "a"], folder, student_class=HVQ)
    context.student_options = HVQOptions(**SMALL, layers=["layer0"])
    return Evaluate(EvaluateOptions(**options)).evaluation(context)


@pytest.mark.parametrize("name", GIVEN)
def test_an_option_changes_what_it_names_and_nothing_else(tmp_path: Path, name: str) -> None:
    published, changed = evaluation(tmp_path), evaluation(tmp_path, **{name: GIVEN[name]})
    different = {f.name for f in fields(changed) if getattr(changed, f.name) != getattr(published, f.name)}
    assert different == {name}
    assert getattr(changed, name) == GIVEN[name]
