"""The kits for datasets and noise protocols catch broken plugins with every one of their checks."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit_cases import OF_EVERY_KIT, caught, kit_of
from PIL import Image

from meds.core.contamination import ClassNoise, Contaminated, NoiseProtocol, NoiseReport
from meds.core.dataset import Dataset, DatasetOptions, Record
from meds.core.errors import DataError
from meds.core.images import pixel_digest
from meds.core.registry import Options
from meds.plugins.noise import InjectOptions, InjectProtocol
from meds.testing import DatasetKit, NoiseProtocolKit
from meds.testing.base import Kit


class Drawn(Dataset):
    """As it should be: images made of their names."""

    def records(self) -> Any:
        train = [Record(f"nut/train/{i}.png", "nut", "train", 0, "good") for i in range(5)]
        test = [Record(f"nut/test/{i}.png", "nut", "test", 1, "dent", f"nut/mask/{i}.png") for i in range(3)]
        return [*train, *test]

    def read_image(self, record: Record) -> Any:
        if record.path not in {known.path for known in Drawn.records(self)}:
            raise DataError(f"{record.path}: there is no such image.")
        seed = int.from_bytes(hashlib.sha256(record.path.encode()).digest()[:4], "big")
        return np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)

    def read_mask(self, record: Record) -> Any:
        if record.mask is None:
            return None
        mask = np.zeros((6, 8), dtype=bool)
        mask[2:4, 2:4] = True
        return mask

    def image_size(self, record: Record) -> tuple[int, int]:
        return 6, 8

    def mask_size(self, record: Record) -> tuple[int, int] | None:
        return None if record.mask is None else (6, 8)

    def digest(self, record: Record) -> str:
        return hashlib.sha256(self.read_image(record).tobytes()).hexdigest()


def drawn(**methods: Any) -> type[Drawn]:
    """The dataset with other methods: functions of what the good one gives and of the record."""

    def method(name: str) -> Any:
        def changed(self: Any, *arguments: Any) -> Any:
            return methods[name](getattr(Drawn, name)(self, *arguments), *arguments)

        return changed

    return type("Changed", (Drawn,), {name: method(name) for name in methods})


def first_with(**facts: Any) -> Any:
    return lambda records: [replace(records[0], **facts), *records[1:]]


def shuffled(records: Any) -> Any:
    np.random.default_rng().shuffle(records)
    return records


class SplitsApart(Drawn):
    """Two images have one path, and the record's split tells them apart."""

    def records(self) -> Any:
        return [replace(record, path=record.path.replace("/test/", "/train/")) for record in super().records()]

    def read_image(self, record: Record) -> Any:
        original = record.path.replace("/train/", "/test/") if record.split == "test" else record.path
        return super().read_image(replace(record, path=original))


class InBothSplits(Drawn):
    """As it should be: some images are for training and for testing."""

    def records(self) -> Any:
        records = super().records()
        return [*records, *(replace(record, split="test") for record in records[:2])]


class NoMissingImages(Drawn):
    def read_image(self, record: Record) -> Any:
        return np.zeros((6, 8, 3), np.uint8) if "no/such" in record.path else super().read_image(record)


class KeyErrors(Drawn):
    def read_image(self, record: Record) -> Any:
        return {known.path: super(KeyErrors, self).read_image(known) for known in self.records()}[record.path]


@pytest.mark.parametrize(
    ("check", "dataset", "sentence"),
    [
        ("test_it_loads", object, "must be a subclass of Dataset"),
        ("test_records_are_sane", drawn(records=lambda records: []), "has no records"),
        ("test_records_are_sane", drawn(records=first_with(class_name="")), "needs a text for its class_name, not ''"),
        ("test_records_are_sane", drawn(records=first_with(split="val")), "split train or test, not 'val'"),
        ("test_records_are_sane", drawn(records=first_with(label=2)), "label 0, 1 or None, not 2"),
        ("test_records_are_sane", drawn(records=first_with(label=False)), "label 0, 1 or None, not False"),
        ("test_records_are_sane", drawn(records=first_with(defect="")), "has defect = ''"),
        ("test_records_are_sane", drawn(records=lambda r: [("a.png", 0)]), "must be a Record, not tuple"),
        ("test_order_is_fixed", drawn(records=shuffled), "lists other records when it is"),
        ("test_paths_are_unique", drawn(records=lambda r: [*r, r[-1]]), "lists 1 images twice .* 'nut/test/2.png'"),
        ("test_paths_are_unique", SplitsApart, "'nut/train/0.png' .* names one image for training and another for"),
        (
            "test_paths_are_unique",
            drawn(records=lambda r: [*r, replace(r[0], split="test", class_name="bolt")]),
            "'nut/train/0.png' .* names two images, one of the class 'nut' and one of 'bolt': give each its own path",
        ),
        (
            "test_images",
            drawn(read_image=lambda image, r: image[..., 0]),
            r"must be .*, not uint8 \[6, 8\]",
        ),
        ("test_images", drawn(read_image=lambda image, r: image / 255), r"must be uint8 \[H, W, 3\], not float64"),
        ("test_images", drawn(image_size=lambda size, r: size[::-1]), r"has \(6, 8\) pixels .* told as \(8, 6\)"),
        ("test_images", drawn(read_image=lambda image, r: shuffled(image)), "other pixels when it is read again"),
        ("test_masks", drawn(read_mask=lambda m, r: None if m is None else m * 255), r"bool \[H, W\], not int"),
        (
            "test_masks",
            drawn(read_mask=lambda m, r: None if m is None else m[:5]),
            r"\(5, 8\) pixels .* \(6, 8\)",
        ),
        ("test_masks", drawn(read_mask=lambda m, r: np.ones((6, 8), bool)), "although its record names none"),
        ("test_masks", drawn(read_mask=lambda m, r: None if m is None else m & False), "marks nothing"),
        ("test_masks", drawn(mask_size=lambda size, r: size and (8, 6)), r"told as \(8, 6\)"),
        ("test_digests", drawn(digest=lambda digest, r: digest[:8]), "needs a sha256 in hexadecimal"),
        (
            "test_digests",
            drawn(digest=lambda digest, r: f"{np.random.default_rng().integers(2**60):064x}"),
            "another",
        ),
        ("test_digests", drawn(digest=lambda digest, r: "0" * 64), "the digest of an image with other pixels"),
        ("test_a_run_can_use_it", drawn(records=lambda r: [r[0], *r[5:]]), "raised DataError: The class 'nut' has 1"),
        ("test_an_unknown_image_is_a_data_error", NoMissingImages, "gives an image for a path that is none of its own"),
        ("test_an_unknown_image_is_a_data_error", KeyErrors, "must raise a DataError .* raises KeyError"),
    ],
)
def test_a_broken_dataset_is_caught(check: str, dataset: Any, sentence: str) -> None:
    caught(DatasetKit, dataset, check, sentence, DatasetOptions)


def test_a_file_that_is_scored_is_read_as_in_training(tmp_path: Path) -> None:
    path = tmp_path / "nut.png"
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(path)

    class Cut(Dataset):
        def records(self) -> Any:
            return [Record(str(path), "nut", "train", 0, "good")]

        def read_image(self, record: Record) -> Any:
            return super().read_image(record)[:, 2:]

    class WellCut(Cut):
        read_image = Dataset.read_image

        def read_file(self, path: Path) -> Any:
            return super().read_file(path)[:, 2:]

    check = "test_new_images_are_read_alike"
    caught(DatasetKit, Cut, check, "other pixels as a file that somebody scores: what `read_image`", DatasetOptions)
    getattr(kit_of(DatasetKit, WellCut, DatasetOptions), check)()
    cut = WellCut(DatasetOptions())
    assert cut.digest(cut.records()[0]) == pixel_digest(cut.read_file(path))


def test_options_must_have_those_of_every_dataset() -> None:
    caught(DatasetKit, Drawn, "test_options_of_every_dataset", "must|needs options", Options)


@pytest.mark.parametrize("dataset", [Drawn, InBothSplits])
def test_a_dataset_as_it_should_be_passes(dataset: Any) -> None:
    kit = kit_of(DatasetKit, dataset, DatasetOptions)
    for check in sorted(set(DatasetKit.checks) - OF_EVERY_KIT):
        getattr(kit, check)()


def protocol(change: Any) -> type[InjectProtocol]:
    """The protocol `inject` with something changed in what it gives."""

    class Changed(InjectProtocol):
        def apply(self, records: Any) -> Any:
            return change(super().apply(records))

    return Changed


def noise(**changes: Any) -> Any:
    """A change of what is reported of the class "nut"."""

    def change(found: Contaminated) -> Contaminated:
        classes = {**found.report.classes, "nut": replace(found.report.classes["nut"], **changes)}
        return replace(found, report=replace(found.report, classes=classes))

    return change


def relabelled(found: Contaminated) -> Contaminated:
    """Hides what is known of the injected images."""
    train = [replace(r, label=0) if flag else r for r, flag in zip(found.train, found.injected, strict=True)]
    return replace(found, train=tuple(train))


class OtherEveryTime(InjectProtocol):
    seeds = itertools.count()

    def apply(self, records: Any) -> Contaminated:
        seed = next(self.seeds) % 2  # these two seeds draw other images, as not every two of them do
        return InjectProtocol(self.options.model_copy(update={"seed": seed})).apply(records)


class OneSeedForAll(InjectProtocol):
    def apply(self, records: Any) -> Contaminated:
        return InjectProtocol(self.options.model_copy(update={"seed": 0})).apply(records)


class Untold(NoiseProtocol):
    def apply(self, records: Any) -> Contaminated:
        found = InjectProtocol(self.options).apply(records)
        return replace(found, report=NoiseReport({}, "untold", True))


def kept_the_split(found: Contaminated) -> Contaminated:
    train = [replace(r, split="test") if "/test/" in r.path else r for r in found.train]
    return replace(found, train=tuple(train))


@pytest.mark.parametrize(
    ("check", "found", "sentence"),
    [
        ("test_it_loads", ClassNoise, "must be a subclass of NoiseProtocol"),
        ("test_same_options_give_the_same_images", OtherEveryTime, "when it is applied again"),
        ("test_same_options_give_the_same_images", protocol(lambda found: found.train), "as Contaminated, not tuple"),
        ("test_records_are_left_alone", protocol(relabelled), "with other facts than the dataset has"),
        ("test_records_are_left_alone", protocol(kept_the_split), "with the split 'test'"),
        (
            "test_records_are_left_alone",
            protocol(lambda found: replace(found, test=(*found.test, found.test[0]))),
            "more than once",
        ),
        (
            "test_known_defects_are_flagged",
            protocol(lambda found: replace(found, injected=(False,) * len(found.train))),
            "the training defect is not flagged as injected",
        ),
        (
            "test_known_defects_are_flagged",
            protocol(lambda found: replace(found, injected=(True,) * len(found.train))),
            "image is no defect and is flagged",
        ),
        (
            "test_test_images_are_left",
            protocol(lambda found: replace(found, test=())),
            "leaves none of the 5 normal test images of 'bolt', without which nothing can be measured",
        ),
        (
            "test_test_images_are_left",
            protocol(lambda found: replace(found, test=tuple(r for r in found.test if r.label == 0))),
            "leaves none of the 8 defective test images of 'bolt'",
        ),
        (
            "test_test_images_are_left",
            protocol(lambda found: replace(found, test=tuple(r for r in found.test if r.class_name == "bolt"))),
            "leaves none of the 5 normal test images of 'nut'",
        ),
        ("test_report_adds_up", protocol(noise(normals=11)), "reports normals = 11 for 'nut', and there are 10"),
        ("test_report_adds_up", protocol(noise(injected=0)), r"already_present \+ injected = 0"),
        ("test_report_adds_up", protocol(noise(anomalies_available=3)), "anomalies_available = 3 for 'nut', .* are 8"),
        ("test_report_adds_up", protocol(noise(dropped_normals=1)), "dropped_normals = 1"),
        ("test_report_adds_up", Untold, r"reports on the classes \[\], not on \['bolt', 'nut'\]"),
        (
            "test_report_is_ready_for_json",
            protocol(lambda found: replace(found, report=replace(found.report, options={"seeds": (1, 2)}))),
            "another one when it is written and read again",
        ),
        (
            "test_overlap_is_told",
            protocol(lambda found: replace(found, report=replace(found.report, overlap=False))),
            "injected images leave the test split, and some are still there",
        ),
        (
            "test_overlap_is_told",
            protocol(lambda found: replace(found, test=found.test[:5])),
            "injected images stay in the test split, and some are gone",
        ),
        ("test_another_seed_is_another_draw", OneSeedForAll, "draws the same images under six seeds"),
    ],
)
def test_a_broken_noise_protocol_is_caught(check: str, found: Any, sentence: str) -> None:
    caught(NoiseProtocolKit, found, check, sentence, InjectOptions, options={"ratio": 0.2})


@pytest.mark.parametrize(
    ("kit", "test", "elsewhere"),
    [
        (
            DatasetKit,
            test_a_broken_dataset_is_caught,
            {"test_options_of_every_dataset", "test_new_images_are_read_alike"},
        ),
        (NoiseProtocolKit, test_a_broken_noise_protocol_is_caught, set()),
    ],
)
def test_every_check_of_the_kits_catches_something(kit: type[Kit], test: Any, elsewhere: set[str]) -> None:
    (marks,) = test.pytestmark
    assert {check for check, *_ in marks.args[1]} | OF_EVERY_KIT | elsewhere == set(kit.checks)
