"""Thresholds for a wanted false-alarm rate: the order statistic, what it promises, and which images are held out."""

from __future__ import annotations

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
    [(99, 0.01, 99), (199, 0.01, 198), (9, 0.2, 8), (4, 0.01, 4), (1, 0.5, 1), (1, 0.01, 1)],
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
        expected = round(share * count) if count >= 20 else 0
        assert sum(data[i].record.class_name == name for i in out) == expected


def test_equal_images_go_together() -> None:
    data = samples(*["a"] * 40)
    twice = [*data, *data]
    out = held_out(twice, 0.25, 0)
    assert len(out) == 20
    assert {i + 40 for i in out if i < 40} == {i for i in out if i >= 40}
    assert held_out(samples(*["a"] * 40, same=True), 0.5, 0) == []
