"""How many training images are defects, by their scores: mixtures whose truth is known, and scores that are odd."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from meds.core.contamination_estimate import Expected, estimate_contamination

Floats = npt.NDArray[np.float64]
SEEDS = range(12)


def mixture(seed: int, images: int, share: float, distance: float, plain: float = 0.0) -> tuple[Floats, int]:
    """Log-normal scores of normal images, of which some are much plainer, and defects `distance` deviations above."""
    random = np.random.default_rng(seed)
    defects = round(share * images)
    bulk = random.normal(0, 1, images - defects)
    bulk[: round(plain * images)] -= 3
    return np.exp(0.2 * np.concatenate([bulk, random.normal(distance, 1, defects)]) - 1.4), defects


def totals(images: int, share: float, distance: float, plain: float = 0.0) -> tuple[list[Expected], int]:
    found, defects = [], 0
    for seed in SEEDS:
        scores, defects = mixture(seed, images, share, distance, plain)
        expected = estimate_contamination(scores, np.zeros(images)).expected()
        assert expected is not None
        found.append(expected)
    return found, defects


def errors(found: Sequence[Expected], defects: int, images: int) -> Floats:
    return np.array([(expected.count - defects) / images for expected in found])


@pytest.mark.parametrize("images", [60, 300, 1000])
def test_without_defects_it_finds_about_none(images: int) -> None:
    found, defects = totals(images, 0, 0)
    wrong = errors(found, defects, images)
    assert np.median(wrong) <= 0.02
    assert wrong.max() <= 0.1
    assert all(expected.low <= 0.02 * images for expected in found)


@pytest.mark.parametrize("images", [120, 300, 1000])
@pytest.mark.parametrize("share", [0.1, 0.3])
def test_defects_that_stand_apart_are_counted(images: int, share: float) -> None:
    found, defects = totals(images, share, 5)
    wrong = errors(found, defects, images)
    assert abs(np.median(wrong)) <= 0.015
    assert np.abs(wrong).max() <= 0.07
    held = [expected.low - 0.01 * images <= defects <= expected.high + 0.01 * images for expected in found]
    assert np.mean(held) >= 0.85


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_defects_that_are_half_hidden_are_rather_missed_than_invented(share: float) -> None:
    found, defects = totals(300, share, 3)
    wrong = errors(found, defects, 300)
    assert -0.15 <= np.median(wrong) <= 0
    assert wrong.max() <= 0.07


def test_a_group_of_plainer_images_neither_adds_nor_hides_defects() -> None:
    clean, _ = totals(300, 0, 0, plain=0.25)
    assert max(expected.count for expected in clean) <= 0.05 * 300
    found, defects = totals(300, 0.1, 5, plain=0.25)
    assert np.abs(errors(found, defects, 300)).max() <= 0.05


def test_probabilities_follow_the_scores_and_not_their_unit() -> None:
    scores, defects = mixture(3, 200, 0.2, 5)
    found = estimate_contamination(scores, np.zeros(200))
    order = np.argsort(scores)
    assert (np.diff(found.probabilities[order]) >= 0).all()
    assert found.probabilities[200 - defects :].mean() > 0.9
    again = estimate_contamination(1000 * scores, np.zeros(200))
    np.testing.assert_allclose(again.probabilities, found.probabilities, atol=1e-6)


def test_what_has_been_looked_at_leaves_the_estimate() -> None:
    scores, defects = mixture(1, 300, 0.1, 5)
    found = estimate_contamination(scores, np.zeros(300))
    left = np.ones(300, dtype=bool)
    left[np.argsort(-scores)[:defects]] = False
    whole, rest = found.expected(), found.expected(left)
    assert whole is not None
    assert rest is not None
    assert rest.count == pytest.approx(found.probabilities[left].sum())
    assert rest.count < 0.2 * whole.count
    nothing = found.expected(np.zeros(300, dtype=bool))
    assert nothing == Expected(0, 0, 0)


def test_classes_are_judged_apart_and_small_ones_not_at_all() -> None:
    first, _ = mixture(0, 100, 0.1, 5)
    second, _ = mixture(1, 100, 0.1, 5)
    scores = np.concatenate([first, 50 * second, first[:20]])
    classes = np.repeat([0, 1, 2], [100, 100, 20])
    found = estimate_contamination(scores, classes)
    np.testing.assert_array_equal(found.probabilities[:100], estimate_contamination(first, classes[:100]).probabilities)
    np.testing.assert_array_equal(found.known, classes < 2)
    assert found.expected(classes == 2) is None
    assert found.expected() == found.expected(classes < 2)


@pytest.mark.parametrize(
    "scores",
    [
        np.zeros(50),
        np.full(50, 0.3),
        np.r_[np.zeros(40), np.ones(10)],
        np.linspace(-1, 1, 50),
        np.geomspace(1, 1e9, 50),
    ],
    ids=["zeros", "constant", "two values", "negative", "nine decades"],
)
def test_odd_scores_give_a_number(scores: Floats) -> None:
    found = estimate_contamination(scores, np.zeros(len(scores)))
    expected = found.expected()
    assert expected is not None
    assert 0 <= expected.low <= expected.count <= expected.high <= len(scores)
    assert ((found.probabilities >= 0) & (found.probabilities <= 1)).all()
