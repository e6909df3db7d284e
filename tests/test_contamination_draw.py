"""Which defects the noise protocol draws: stratified, repeatable, and consistent with its report."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any

from contamination_cases import BOTTLE, CABLE, defects_of, inject, injected, make_class
from hypothesis import given, settings
from hypothesis import strategies as st

from meds.plugins.noise import largest_remainder


def test_stratification_follows_the_defect_types() -> None:
    result = inject(make_class("one", 100, {"a": 30, "b": 20, "c": 10}), ratio=0.2)
    assert Counter(record.defect for record in injected(result)) == {"a": 10, "b": 7, "c": 3}
    by_class = [
        Counter(r.defect for r in injected(inject(BOTTLE, ratio=0.1, stratify="class", seed=seed))) for seed in range(5)
    ]
    assert {sum(counts.values()) for counts in by_class} == {21}
    assert len({tuple(sorted(counts.items())) for counts in by_class}) > 1


def test_largest_remainder_breaks_ties_by_size_then_name() -> None:
    assert largest_remainder({"b": 1, "a": 1, "c": 1}, 2) == {"b": 1, "a": 1, "c": 0}
    # Quotas 0.5 and 1.5: equal remainders, so the larger group gets the place.
    assert largest_remainder({"a": 1, "b": 3}, 2) == {"a": 0, "b": 2}


@given(st.dictionaries(st.text(max_size=2), st.integers(1, 30), min_size=1), st.data())
def test_largest_remainder_stays_next_to_the_quotas(sizes: dict[str, int], data: st.DataObject) -> None:
    total = sum(sizes.values())
    count = data.draw(st.integers(0, total))
    shares = largest_remainder(sizes, count)
    assert sum(shares.values()) == count
    for name, size in sizes.items():
        assert 0 <= shares[name] <= size
        assert abs(shares[name] - Fraction(count * size, total)) < 1


def test_equal_seeds_give_equal_draws_and_other_seeds_give_others() -> None:
    assert inject(BOTTLE, ratio=0.1) == inject(list(BOTTLE), ratio=0.1)
    assert injected(inject(BOTTLE, ratio=0.1)) != injected(inject(BOTTLE, ratio=0.1, seed=1))


def test_a_draw_does_not_depend_on_the_other_classes() -> None:
    alone, together = inject(BOTTLE, ratio=0.1), inject(CABLE + BOTTLE, ratio=0.1)
    assert injected(alone) == [r for r in injected(together) if r.class_name == "bottle"]
    assert list(together.report.classes) == ["cable", "bottle"]
    assert [r.class_name for r in injected(together)] == ["cable"] * 3 + ["bottle"] * 21


def test_the_draw_is_the_same_in_every_version() -> None:
    paths = [record.path for record in injected(inject(CABLE, ratio=0.1))]
    assert paths == ["cable/test/bent/001.png", "cable/test/cut/000.png", "cable/test/cut/002.png"]


def test_a_larger_draw_from_the_whole_class_contains_the_smaller() -> None:
    small, large = (set(injected(inject(BOTTLE, ratio=r, stratify="class"))) for r in (0.1, 0.2))
    assert small < large


@settings(deadline=None)
@given(
    normals=st.lists(st.integers(0, 30), min_size=1, max_size=3),
    defects=st.dictionaries(st.sampled_from("abc"), st.integers(1, 9), min_size=1),
    ratio=st.floats(0, 3),
    shortage=st.sampled_from(["cap", "repeat", "drop-normals"]),
    overlap=st.booleans(),
    stratify=st.sampled_from(["defect", "class"]),
)
def test_invariants(normals: list[int], defects: dict[str, int], ratio: float, **options: Any) -> None:
    records = [r for i, count in enumerate(normals) for r in make_class(f"class{i}", count, defects)]
    overlap = options["overlap"]
    result = inject(records, ratio=ratio, **options)
    known = set(records)
    assert all(record in known for record in result.test)
    assert [r for r in result.test if r.label == 0] == [r for r in records if r.split == "test" and r.label == 0]
    added = {record.path for record in injected(result)}
    left = {record.path for record in result.test if record.label == 1}
    everything = {record.path for record in defects_of(records)}
    assert added <= everything
    assert left == (everything if overlap else everything - added)
    for name, report in result.report.classes.items():
        own = [flag for record, flag in zip(result.train, result.injected, strict=True) if record.class_name == name]
        assert (own.count(True), own.count(False)) == (report.injected, report.normals)
        assert report.requested == round(Fraction(str(ratio)) * (report.normals + report.dropped_normals))
        assert report.injected == report.requested or options["shortage"] != "repeat"
        assert report.injected <= report.requested
