"""The order in which training images are looked at."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from meds.core.suspicion import most_suspicious_first

positive = st.floats(0, 1e6, allow_subnormal=False)


@given(st.lists(positive, max_size=30))
def test_within_a_class_scores_decide(scores: list[float]) -> None:
    order = most_suspicious_first(scores, ["tile"] * len(scores))
    assert order == sorted(range(len(scores)), key=lambda i: (-scores[i], i))


@given(st.lists(st.tuples(st.integers(0, 1000), st.sampled_from("ab")), min_size=1, max_size=30))
def test_the_scale_of_a_class_does_not_matter(images: list[tuple[int, str]]) -> None:
    classes = [name for _, name in images]
    scores = [float(score) for score, _ in images]
    scaled = [8 * score if name == "b" else score for score, name in zip(scores, classes, strict=True)]
    first, second = most_suspicious_first(scores, classes), most_suspicious_first(scaled, classes)
    for name in "ab":
        assert [i for i in first if classes[i] == name] == [i for i in second if classes[i] == name]
    above = {i: rank for rank, i in enumerate(first)}
    together = [i for i in second if classes[i] == "a"]
    assert together == sorted(together, key=above.__getitem__)


def test_a_noisy_class_does_not_fill_the_top() -> None:
    rng = np.random.default_rng(0)
    loud, quiet = rng.normal(10, 2, 50), rng.normal(1, 0.02, 50)
    quiet[7] = 2
    order = most_suspicious_first([*loud, *quiet], ["loud"] * 50 + ["quiet"] * 50)
    assert order[0] == 57


def test_classes_without_spread_are_ordered_all_the_same() -> None:
    assert most_suspicious_first([1, 1, 1, 5, 2, 2], ["a"] * 4 + ["b"] * 2) == [3, 4, 5, 0, 1, 2]
    assert most_suspicious_first([], []) == []
