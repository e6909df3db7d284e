"""The kit for noise protocols: how known defects enter the training set."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any
from unittest import SkipTest

from meds.core.contamination import Contaminated, NoiseProtocol, available_defects
from meds.core.dataset import ANOMALOUS, NORMAL, Record
from meds.testing.base import Kit, check, require

SEED = "seed"


class NoiseProtocolKit(Kit):
    """Every check of the contract `NoiseProtocol`, on records made for it or on those of `records`."""

    kind = "noise protocol"
    contract = NoiseProtocol

    def records(self) -> Sequence[Record]:
        """What the protocol is applied to: two classes, two defect types each, training images of unknown label too."""
        return example_records()

    def applied(self, **changes: Any) -> Contaminated:
        """What a protocol that is made for the occasion does with the records."""
        protocol = self.implementation()(self.made_options(**changes))
        found = protocol.apply(tuple(self.records()))
        good = isinstance(found, Contaminated)
        require(good, f"{self.title} must give what it did as Contaminated, not {type(found).__name__}.")
        result: Contaminated = found
        return result

    @check
    def test_same_options_give_the_same_images(self) -> None:
        """The draw depends on records and options only."""
        first, again = self.applied(), self.applied()
        same = (first.train, first.injected, first.test) == (again.train, again.injected, again.test)
        require(same, f"{self.title} gives other images when it is applied again with the same options.")
        require(
            first.report.as_dict() == again.report.as_dict(), f"{self.title} gives another report when applied again."
        )

    @check
    def test_records_are_left_alone(self) -> None:
        """Every image is one of the dataset's, with its label, defect type and mask; only its split may change."""
        known = {_facts(record) for record in self.records()}
        found = self.applied()
        for split, records in (("train", found.train), ("test", found.test)):
            for record in records:
                who = f"{self.title} gives the {split} image '{record.path}'"
                require(_facts(record) in known, f"{who} with other facts than the dataset has.")
                require(record.split == split, f"{who} with the split '{record.split}'.")
        tested = Counter(record.path for record in found.test)
        own = {record.path for record in self.records() if record.split == "test"}
        require(set(tested) <= own, f"{self.title} takes training images for testing.")
        twice = [path for path, count in tested.items() if count > 1]
        require(not twice, f"{self.title} gives the test image '{(*twice, '')[0]}' more than once.")

    @check
    def test_known_defects_are_flagged(self) -> None:
        """`injected` is True for exactly the training images that are known to be defects."""
        found = self.applied()
        for record, flag in zip(found.train, found.injected, strict=True):
            wanted = record.label == ANOMALOUS
            what = "defect is not" if wanted else "image is no defect and is"
            require(bool(flag) == wanted, f"{self.title}: the training {what} flagged as injected ('{record.path}').")

    @check
    def test_test_images_are_left(self) -> None:
        """A class keeps some of its normal and some of its defective test images, but for those that are injected."""
        found, records = self.applied(), self.records()
        # Defects may leave by being injected, all of them too, if the report says that they leave.
        moved = {record.path for record in found.train} if found.report.overlap is False else set()
        left = {(record.class_name, record.label) for record in found.test}
        for name in sorted({record.class_name for record in records}):
            for label, what in ((NORMAL, "normal"), (ANOMALOUS, "defective")):
                own = [r for r in records if (r.split, r.class_name, r.label) == ("test", name, label)]
                told = label == ANOMALOUS and all(record.path in moved for record in own)
                require(
                    not own or (name, label) in left or told,
                    f"{self.title} leaves none of the {len(own)} {what} test images of '{name}', without which nothing "
                    "can be measured: keep test images that it does not inject.",
                )

    @check
    def test_report_adds_up(self) -> None:
        """Its report has the numbers of the images that it gives, class by class."""
        found, records = self.applied(), self.records()
        names = {record.class_name for record in records}
        classes = found.report.classes
        require(
            set(classes) == names, f"{self.title} reports on the classes {sorted(classes)}, not on {sorted(names)}."
        )
        for name, noise in classes.items():
            before = [r for r in records if r.class_name == name]
            train = [r for r in found.train if r.class_name == name]
            available = len(available_defects(before))
            defects, normals = sum(r.label == ANOMALOUS for r in train), sum(r.label != ANOMALOUS for r in train)
            dropped = sum(r.split == "train" and r.label != ANOMALOUS for r in before) - normals
            for what, reported, counted in (
                ("normals", noise.normals, normals),
                ("anomalies_available", noise.anomalies_available, available),
                ("already_present + injected", noise.already_present + noise.injected, defects),
                ("dropped_normals", noise.dropped_normals, max(0, dropped)),
            ):
                same = reported == counted
                require(same, f"{self.title} reports {what} = {reported} for '{name}', and there are {counted}.")
            require(noise.requested >= 0, f"{self.title} reports that {noise.requested} defects were asked for.")
        require(bool(found.report.protocol), f"{self.title} must name itself in its report.")

    @check
    def test_report_is_ready_for_json(self) -> None:
        """The report can be written."""
        report = self.applied().report.as_dict()
        same = json.loads(json.dumps(report, allow_nan=False)) == report
        require(same, f"{self.title} has a report that is another one when it is written and read again.")

    @check
    def test_overlap_is_told(self) -> None:
        """Injected images are among the test images exactly if the report says so."""
        found = self.applied()
        drawn = {r.path for r in found.train} & {r.path for r in self.records() if r.split == "test"}
        left = drawn & {record.path for record in found.test}
        if found.report.overlap:
            require(left == drawn, f"{self.title} says that injected images stay in the test split, and some are gone.")
        else:
            require(not left, f"{self.title} says that injected images leave the test split, and some are still there.")

    @check
    def test_another_seed_is_another_draw(self) -> None:
        """Where it has a seed, and more defects to choose from than it injects, some other seed draws others."""
        if SEED not in self.registration().plugin.options.model_fields:
            raise SkipTest("it has no option 'seed'")
        first = self.applied()
        choice = [noise for noise in first.report.classes.values() if 0 < noise.injected < noise.anomalies_available]
        if not choice:
            raise SkipTest("with these options it injects nothing, or all that there is")
        start = getattr(self.made_options(), SEED)
        others = [self.applied(**{SEED: start + i}).train for i in range(1, 6)]
        require(any(train != first.train for train in others), f"{self.title} draws the same images under six seeds.")


def example_records() -> tuple[Record, ...]:
    """Two classes of ten training images, five normal and eight defective test images; one does not know its labels."""
    records = []
    for name, label in (("bolt", NORMAL), ("nut", None)):
        defect = None if label is None else "good"
        records += [Record(f"{name}/train/good/{i:03}.png", name, "train", label, defect) for i in range(10)]
        records += [Record(f"{name}/test/good/{i:03}.png", name, "test", NORMAL, "good") for i in range(5)]
        for kind in ("dent", "scratch"):
            records += [
                Record(
                    f"{name}/test/{kind}/{i:03}.png", name, "test", ANOMALOUS, kind, f"{name}/mask/{kind}/{i:03}.png"
                )
                for i in range(4)
            ]
    return tuple(records)


def _facts(record: Record) -> tuple[Any, ...]:
    return record.path, record.class_name, record.label, record.defect, record.mask
