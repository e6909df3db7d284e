"""The noise protocol: the paper's figures, every shortage rule, overlap, options and report."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from contamination_cases import BOTTLE, CABLE, defects_of, inject, injected, make_class
from pydantic import ValidationError

from meds.core import registry
from meds.core.contamination import ClassNoise, Contaminated, NoiseReport, without_noise
from meds.core.dataset import Record
from meds.core.errors import DataError
from meds.plugins import noise
from meds.plugins.noise import InjectOptions, InjectProtocol


@pytest.mark.parametrize(
    ("normals", "defects", "ratio", "count", "depth"),
    [
        (209, 63, 0.1, 21, 9.13),
        (209, 63, 0.2, 42, 16.73),
        (209, 63, 0.4, 63, 23.16),
        (220, 93, 0.1, 22, 9.09),
        (220, 93, 0.2, 44, 16.67),
        (220, 93, 0.4, 88, 28.57),
        (245, 92, 0.1, 24, 8.92),
        (247, 60, 0.1, 25, 9.19),
    ],
)
def test_counts_of_the_paper(normals: int, defects: int, ratio: float, count: int, depth: float) -> None:
    result = inject(make_class("one", normals, {"dent": defects // 2, "hole": defects - defects // 2}), ratio=ratio)
    report = result.report.classes["one"]
    assert sum(result.injected) == report.injected == count
    assert report.ratio_of_total is not None
    # The inspection depth of a perfect ranking is the share of injected images.
    assert round(report.ratio_of_total * 100, 2) == depth
    assert report.ratio_of_normal == count / normals
    assert report.capped == (round(Fraction(str(ratio)) * normals) > defects)


def test_injected_records_are_training_records_with_the_truth_about_them() -> None:
    result = inject(BOTTLE, ratio=0.1)
    assert result.train[:209] == tuple(BOTTLE[:209])
    assert result.injected == (False,) * 209 + (True,) * 21
    originals = {record.path: record for record in defects_of(BOTTLE)}
    for record in injected(result):
        original = originals[record.path]
        assert (record.split, record.label) == ("train", 1)
        assert (record.class_name, record.defect, record.mask) == (
            original.class_name,
            original.defect,
            original.mask,
        )


def test_overlap_keeps_the_test_split_and_no_overlap_removes_what_was_injected() -> None:
    with_overlap, without = inject(BOTTLE, ratio=0.1), inject(BOTTLE, ratio=0.1, overlap=False)
    assert with_overlap.test == tuple(BOTTLE[209:])
    assert injected(without) == injected(with_overlap)
    paths = {record.path for record in injected(without)}
    assert without.test == tuple(record for record in BOTTLE[209:] if record.path not in paths)
    assert len(without.test) == 3 + 63 - 21
    assert (with_overlap.report.overlap, without.report.overlap) == (True, False)


def test_ratio_of_the_total() -> None:
    result = inject(make_class("one", 180, {"dent": 100}), ratio=0.1, of="total")
    assert sum(result.injected) == 20
    assert result.report.classes["one"].ratio_of_total == 0.1


def test_the_ratio_is_taken_as_the_decimal_number_that_was_written() -> None:
    # 10.5 and 31.5 are rounded to the even number; in floating point they are not met exactly.
    assert (round(0.07 * 150), round(0.7 * 45)) == (11, 31)
    assert sum(inject(make_class("one", 150, {"dent": 50}), ratio=0.07).injected) == 10
    assert sum(inject(make_class("one", 45, {"dent": 50}), ratio=0.7).injected) == 32


def test_shortage_cap_takes_all_defects() -> None:
    result = inject(BOTTLE, ratio=0.4)
    assert sorted(r.path for r in injected(result)) == sorted(r.path for r in defects_of(BOTTLE))
    report = result.report.classes["bottle"]
    assert (report.requested, report.injected, report.capped) == (84, 63, True)


def test_shortage_error_names_the_class_and_the_figures() -> None:
    with pytest.raises(DataError, match=r"'bottle' has 63 .* 0\.4 .*209 normal.* needs 84"):
        inject(BOTTLE, ratio=0.4, shortage="error")
    assert sum(inject(BOTTLE, ratio=0.3, shortage="error").injected) == 63


def test_shortage_repeat_takes_all_defects_before_any_again() -> None:
    result = inject(BOTTLE, ratio=0.8, shortage="repeat")
    uses = Counter(record.path for record in injected(result))
    assert sum(uses.values()) == 167
    assert len(uses) == 63
    assert set(uses.values()) == {2, 3}
    report = result.report.classes["bottle"]
    assert (report.requested, report.injected, report.capped) == (167, 167, False)
    assert inject(BOTTLE, ratio=0.8, shortage="repeat") == result


def test_repeated_images_leave_the_test_split_once_without_overlap() -> None:
    result = inject(BOTTLE, ratio=0.4, shortage="repeat", overlap=False)
    assert [record.label for record in result.test] == [0, 0, 0]


@pytest.mark.parametrize(("ratio", "of", "kept"), [(0.4, "normal", 158), (0.4, "total", 94)])
def test_shortage_drop_normals_reaches_the_ratio(ratio: float, of: str, kept: int) -> None:
    result = inject(BOTTLE, ratio=ratio, of=of, shortage="drop-normals")
    report = result.report.classes["bottle"]
    assert (report.injected, report.normals, report.dropped_normals) == (63, kept, 209 - kept)
    assert not report.capped
    achieved = report.ratio_of_normal if of == "normal" else report.ratio_of_total
    assert achieved == pytest.approx(ratio, abs=0.003)
    normals = [record for record in result.train if record.label == 0]
    assert len(normals) == kept
    assert normals == [record for record in BOTTLE if record in normals]
    other = inject(BOTTLE, ratio=ratio, of=of, shortage="drop-normals", seed=1)
    assert [record for record in other.train if record.label == 0] != normals


def test_dropping_keeps_at_least_one_normal() -> None:
    report = inject(make_class("one", 4, {"dent": 1}), ratio=5, shortage="drop-normals").report.classes["one"]
    assert (report.normals, report.injected, report.dropped_normals) == (1, 1, 3)


@pytest.mark.parametrize("shortage", ["error", "repeat", "drop-normals"])
def test_a_class_without_defects_is_an_error_unless_capped(shortage: str) -> None:
    records = BOTTLE + make_class("clean", 20, {})
    with pytest.raises(DataError, match="'clean' has 0 labelled defects"):
        inject(records, ratio=0.1, shortage=shortage)
    report = inject(records, ratio=0.1).report.classes["clean"]
    assert (report.injected, report.capped) == (0, True)


def test_noise_without_any_labelled_defect_is_an_error() -> None:
    records = make_class("one", 10, {})
    with pytest.raises(DataError, match="leave `noise` out"):
        inject(records, ratio=0.1)
    assert inject(records, ratio=0.0).train == tuple(records[:10])


def test_unknown_training_labels_count_as_normal() -> None:
    train = [Record(f"{i}.png", "one", "train") for i in range(20)]
    result = inject(train + make_class("one", 0, {"dent": 9}), ratio=0.1)
    assert sum(result.injected) == 2
    assert result.report.classes["one"].normals == 20


def test_data_as_they_are_know_the_defects_in_the_training_split() -> None:
    dirty = Record("one/train/odd.png", "one", "train", 1, "dent")
    records = [dirty, *make_class("one", 9, {"dent": 4})]
    result = without_noise(records)
    assert result.train == tuple(records[:10])
    assert result.injected == (True,) + (False,) * 9
    assert result.test == tuple(records[10:])
    report = result.report.as_dict()
    assert report["protocol"] is None
    assert report["classes"]["one"]["already_present"] == 1
    assert report["classes"]["one"]["injected"] == 0
    assert report["classes"]["one"]["ratio_of_total"] == 0.1
    added = inject(records, ratio=0.2)
    assert (sum(added.injected), added.report.classes["one"].injected) == (3, 2)


def test_report_is_ready_for_json_and_totals_the_classes() -> None:
    report = inject(BOTTLE + CABLE, ratio=0.4, overlap=False).report.as_dict()
    assert json.loads(json.dumps(report)) == report
    assert report["protocol"] == "inject"
    assert report["options"]["shortage"] == "cap"
    assert report["overlap"] is False
    assert report["total"] == {
        "normals": 239,
        "anomalies_available": 75,
        "already_present": 0,
        "requested": 96,
        "injected": 75,
        "dropped_normals": 0,
        "ratio_of_normal": 75 / 239,
        "ratio_of_total": 75 / 314,
        "capped": True,
    }


def test_ratios_of_nothing_are_undefined() -> None:
    empty = ClassNoise(normals=0, anomalies_available=0)
    assert empty.ratio_of_normal is None
    assert empty.ratio_of_total is None


def test_flags_must_match_the_training_images() -> None:
    with pytest.raises(ValueError, match="1 training images, but 0"):
        Contaminated((BOTTLE[0],), (), (), NoiseReport({}))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ratio": -0.1},
        {"ratio": float("nan")},
        {"ratio": 1.0, "of": "total"},
        {"ratio": 0.1, "shortage": "ignore"},
        {"ratio": 0.1, "ration": 1},
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        InjectOptions(**options)


def test_the_protocol_is_registered_and_every_option_is_described() -> None:
    plugins = registry.Registry()
    plugins.register_module(noise, "meds-ad", "0")
    registration = plugins.get("noise protocol", "inject")
    assert plugins.broken == []
    assert registration.load() is InjectProtocol
    assert all(field.description for field in registration.plugin.options.model_fields.values())


@pytest.mark.parametrize("overlap", [True, False])
def test_a_defect_that_is_a_training_image_already_is_not_injected(overlap: bool) -> None:
    records = make_class("one", 20, {"dent": 10})
    present = [replace(record, split="train") for record in defects_of(records)[:6]]
    result = inject([*records, *present], ratio=0.5, overlap=overlap)
    counts = Counter(record.path for record in result.train)
    assert set(counts.values()) == {1}
    noise = result.report.classes["one"]
    assert (noise.already_present, noise.anomalies_available, noise.requested, noise.injected) == (6, 4, 10, 4)
    as_it_is = without_noise([*records, *present]).report.classes["one"]
    assert (as_it_is.already_present, as_it_is.anomalies_available) == (6, 4)
