"""Thresholds for a wanted false-alarm rate: the order statistic, what it promises, and which images are held out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meds.core.calibration import calibrate, held_out
from meds.core.data import Sample
from meds.core.dataset import Record


def samples(*classes: str, same: bool = False) -> list[Sample]:
    names = sorted(set(classes))
    return [
        Sample(Record(f"{i}.png", name, "train"), "same" if same else str(i), names.index(name))
        for i, name in enumerate(classes)
    ]


@pytest.mark.parametrize(
    ("count", "rate", "place"),
    [(99, 0.01, 99), (199, 0.01, 198), (99, 0.29, 71), (9, 0.2, 8), (4, 0.01, 4), (1, 0.5, 1), (1, 0.01, 1)],
)
def test_the_threshold_is_the_order_statistic(count: int, rate: float, place: int) -> None:
    scores = np.random.default_rng(0).permutation(count) + 1.0
    found = calibrate(scores, rate, held_out=True)
    assert found.threshold == place
    assert found.expected == pytest.approx((count + 1 - place) / (count + 1))
    assert 0 <= found.low <= found.expected <= found.high <= 1


@pytest.mark.parametrize(("count", "rate"), [(30, 0.01), (60, 0.1)])
def test_expected_rate_and_interval_hold_for_new_images(count: int, rate: float) -> None:
    random = np.random.default_rng(1)
    rates = []
    for _ in range(3000):
        found = calibrate(random.exponential(size=count), rate, held_out=True)
        rates.append(np.exp(-found.threshold))  # the exact share of new images above it
    inside = np.mean([found.low <= r <= found.high for r in rates])
    assert np.mean(rates) == pytest.approx(found.expected, rel=0.05)
    assert inside == pytest.approx(0.95, abs=0.02)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=200), st.floats(0.001, 0.5), st.integers(0, 5))
def test_certain_images_count_as_if_the_others_were_not_there(scores: list[float], rate: float, seed: int) -> None:
    """Weights of 1 are no weights, and images that are hardly ever normal change nothing."""
    alone = calibrate(np.array(scores), rate, held_out=True)
    assert calibrate(np.array(scores), rate, True, np.ones(len(scores))) == alone
    place = min(len(scores), math.ceil((len(scores) + 1) * (1 - rate) - 1e-9))
    assert alone.threshold == sorted(scores)[place - 1]
    others = np.random.default_rng(seed).uniform(0, 20, 7)
    found = calibrate(np.append(scores, others), rate, True, np.append(np.ones(len(scores)), np.full(7, 1e-12)))
    assert found.threshold == alone.threshold
    assert (found.expected, found.low, found.high) == pytest.approx((alone.expected, alone.low, alone.high), abs=1e-6)


def test_likely_defects_do_not_set_the_threshold_by_hand() -> None:
    """Up to half a normal image may lie above: of 0.1, 0.3 and 0.9 normal from the top, the third is the one."""
    scores, normal = np.array([5.0, 9.0, 8.0, 1.0, 7.0]), np.array([1.0, 0.1, 0.3, 1.0, 0.9])
    found = calibrate(scores, 0.01, True, normal)
    assert found.threshold == 7.0
    assert found.expected == pytest.approx((0.4 + 1) / (3.3 + 1))
    assert found.images == 5


@pytest.mark.parametrize("rate", [0.01, 0.05])
@pytest.mark.parametrize("apart", [3, 6])
def test_the_promise_holds_for_images_that_are_defects_with_known_probability(rate: float, apart: int) -> None:
    """Normal scores are exponential, defects lie higher; the local false discovery rate is known exactly."""
    random, rates, expected, inside = np.random.default_rng(2), [], [], []
    for _ in range(2000):
        defect = random.random(60) < 0.2
        scores = random.exponential(size=60) + apart * defect
        densities = 0.8 * np.exp(-scores), np.where(scores > apart, 0.2 * np.exp(apart - scores), 0)
        found = calibrate(scores, rate, True, densities[0] / sum(densities))
        rates.append(np.exp(-found.threshold))
        expected.append(found.expected)
        inside.append(found.low <= rates[-1] <= found.high)
    # Where defects and normal images overlap, the images at the threshold are rather defects: it promises too little.
    assert 0.4 * np.mean(expected) < np.mean(rates) < 1.03 * np.mean(expected)
    assert np.mean(rates) == pytest.approx(np.mean(expected), rel=0.03) or apart == 3
    assert np.mean(inside) > 0.94


def test_images_that_were_trained_on_promise_nothing() -> None:
    found = calibrate(np.arange(101.0), 0.01, held_out=False)
    assert (found.threshold, found.expected, found.low, found.high) == (99.0, None, None, None)
    with pytest.raises(ValueError, match="at least one score"):
        calibrate(np.zeros(0), 0.01, held_out=True)


@given(st.integers(0, 60), st.integers(0, 60), st.floats(0, 0.9), st.integers(0, 5))
def test_held_out_images_are_a_share_of_each_class(first: int, second: int, share: float, seed: int) -> None:
    data = samples(*["a"] * first, *["b"] * second)
    out = held_out(data, share, seed)
    assert out == sorted(set(out)) == held_out(data, share, seed)
    for name, count in (("a", first), ("b", second)):
        expected = round(share * count) if count >= 30 else 0
        assert sum(data[i].record.class_name == name for i in out) == expected


def test_equal_images_go_together() -> None:
    data = samples(*["a"] * 40)
    twice = [*data, *data]
    assert len(held_out(samples(*["a"] * 34), 0.99, 0)) == 32, "a training needs two"
    out = held_out(twice, 0.25, 0)
    assert len(out) == 20
    assert {i + 40 for i in out if i < 40} == {i for i in out if i >= 40}
    assert held_out(samples(*["a"] * 40, same=True), 0.5, 0) == []
