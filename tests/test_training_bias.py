"""The scores of images that a student was trained on, brought to those of images that it was not."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import pytest
import torch

from meds.core.contamination_estimate import estimate_contamination
from meds.stages.training_bias import as_if_not_trained_on

RANDOM = np.random.default_rng(0)
CLASSES = np.repeat([0, 1], [200, 100])
DEFECT = RANDOM.random(300) < 0.2
KNOWN = RANDOM.lognormal(0, 0.2, 300) * np.where(DEFECT, 3, 1)
HELD_OUT = RANDOM.random(300) < 0.1
TRAINED = ~HELD_OUT & (KNOWN < 1.3)
# A new image scores as the memory says, and what was trained on a quarter of it.
NEW = KNOWN * RANDOM.lognormal(0, 0.1, 300)
OWN = np.where(TRAINED, NEW / 4, NEW)


def corrected(own: Any = OWN, trained: Any = TRAINED, held_out: Any = HELD_OUT) -> Any:
    return as_if_not_trained_on(torch.tensor(own), torch.tensor(KNOWN), trained, held_out, CLASSES).numpy()


def literally(own: Any, trained: Any, held_out: Any) -> list[float]:
    """The same, image by image."""
    found = []
    for i in range(len(own)):
        members = [j for j in range(len(own)) if CLASSES[j] == CLASSES[i]]
        middle = statistics.median(KNOWN[j] for j in members)
        new = [own[j] for j in members if held_out[j] and KNOWN[j] <= middle]
        old = [own[j] for j in members if trained[j] and KNOWN[j] <= middle]
        factor = statistics.median(new) / statistics.median(old) if min(len(new), len(old)) >= 3 else 1.0
        found.append(own[i] * max(factor, 1.0) if trained[i] else own[i])
    return found


@pytest.mark.parametrize("held_out", [HELD_OUT, HELD_OUT & (CLASSES == 0), ~HELD_OUT, np.zeros(300, dtype=bool)])
def test_the_factor_is_the_ratio_of_medians_in_the_plain_half_of_a_class(held_out: Any) -> None:
    trained = TRAINED & ~held_out
    assert corrected(OWN, trained, held_out) == pytest.approx(literally(OWN, trained, held_out))


def test_it_finds_how_much_was_gained_by_training() -> None:
    factors = corrected()[TRAINED] / OWN[TRAINED]
    assert factors == pytest.approx(np.full(len(factors), 4.0), rel=0.2)
    assert np.array_equal(corrected()[~TRAINED], OWN[~TRAINED])


def test_what_was_trained_on_is_never_lowered() -> None:
    own = np.where(TRAINED, NEW * 2, NEW)
    assert np.array_equal(corrected(own), own)


def test_without_a_memory_nothing_changes() -> None:
    own = torch.tensor(OWN)
    assert as_if_not_trained_on(own, None, TRAINED, HELD_OUT, CLASSES).equal(own)


def test_images_held_out_from_a_long_training_are_not_taken_for_defects() -> None:
    def normal_images_called_defects(own: Any) -> float:
        probabilities = estimate_contamination(np.sqrt(own * KNOWN), CLASSES).probabilities
        return float(probabilities[HELD_OUT & ~DEFECT].mean())

    assert normal_images_called_defects(OWN) > 0.5
    assert normal_images_called_defects(corrected()) < 0.2
