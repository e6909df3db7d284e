"""The noise-protocol contract: how known defects enter the training set, and the report of what was done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from meds.core.dataset import ANOMALOUS, Record


@dataclass(frozen=True)
class ClassNoise:
    """What happened to the training images of one class (or of all classes together).

    `normals`: training images not known to be defects, after the protocol. `already_present`: known
    defects that the training split had before. `anomalies_available`: defects in the test split before
    anything was drawn that are no training images already. `requested` and `injected`: defects asked for
    and added, repeats included. `dropped_normals`: normal training images left out to reach the ratio.
    """

    normals: int
    anomalies_available: int
    already_present: int = 0
    requested: int = 0
    injected: int = 0
    dropped_normals: int = 0

    @property
    def ratio_of_normal(self) -> float | None:
        """Achieved defects / normals in the training set; None without normals."""
        return (self.injected + self.already_present) / self.normals if self.normals else None

    @property
    def ratio_of_total(self) -> float | None:
        """Achieved defects / all training images; None without training images."""
        defects = self.injected + self.already_present
        return defects / (self.normals + defects) if self.normals + defects else None

    @property
    def capped(self) -> bool:
        """Whether the ratio was missed because the class has too few defects."""
        return self.injected < self.requested and not self.dropped_normals

    def as_dict(self) -> dict[str, Any]:
        """Counts and achieved ratios, ready for JSON."""
        return {
            "normals": self.normals,
            "anomalies_available": self.anomalies_available,
            "already_present": self.already_present,
            "requested": self.requested,
            "injected": self.injected,
            "dropped_normals": self.dropped_normals,
            "ratio_of_normal": self.ratio_of_normal,
            "ratio_of_total": self.ratio_of_total,
            "capped": self.capped,
        }


@dataclass(frozen=True)
class NoiseReport:
    """What a noise protocol did: for every class, in total, and with which options.

    `protocol` and `overlap` are None for data used as they are. `overlap` says whether the injected images stay in
    the test split; results with and without overlap must not be compared. `options` must be ready for JSON.
    `ignored` counts, by class, images that were named for training and are of classes that the data do not have.
    """

    classes: Mapping[str, ClassNoise]
    protocol: str | None = None
    overlap: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    ignored: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> ClassNoise:
        """The counts of all classes together."""
        every = self.classes.values()
        return ClassNoise(
            sum(one.normals for one in every),
            sum(one.anomalies_available for one in every),
            sum(one.already_present for one in every),
            sum(one.requested for one in every),
            sum(one.injected for one in every),
            sum(one.dropped_normals for one in every),
        )

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, ready for JSON; `total` is built like each of `classes`."""
        return {
            "protocol": self.protocol,
            "overlap": self.overlap,
            "options": dict(self.options),
            "ignored": dict(self.ignored),
            "classes": {name: noise.as_dict() for name, noise in self.classes.items()},
            "total": self.total.as_dict(),
        }


@dataclass(frozen=True)
class Contaminated:
    """The images that a run uses. `injected` has one entry for each of `train`: True for a known defect."""

    train: tuple[Record, ...]
    injected: tuple[bool, ...]
    test: tuple[Record, ...]
    report: NoiseReport

    def __post_init__(self) -> None:
        if len(self.train) != len(self.injected):
            raise ValueError(f"{len(self.train)} training images, but {len(self.injected)} injected flags.")


class NoiseProtocol(ABC):
    """A way to put known defects into the training set. `options` is the plugin's validated options model."""

    def __init__(self, options: Any) -> None:
        self.options = options

    @abstractmethod
    def apply(self, records: Sequence[Record]) -> Contaminated:
        """The contaminated data of a dataset's records.

        The same records and options always give the same result. An injected image is a training record
        with its defect's label, type and mask. Raises DataError if the records do not allow it.
        """


def without_noise(records: Sequence[Record]) -> Contaminated:
    """The data as they are; training images already labelled as defects count as known defects."""
    train = tuple(record for record in records if record.split == "train")
    test = tuple(record for record in records if record.split == "test")
    normals, present = count_by_class(train, anomalous=False), count_by_class(train, anomalous=True)
    available = count_by_class(available_defects(records), anomalous=True)
    report = NoiseReport(
        {name: ClassNoise(normals[name], available[name], present[name]) for name in class_names(records)}
    )
    return Contaminated(train, tuple(record.label == ANOMALOUS for record in train), test, report)


def class_names(records: Iterable[Record]) -> tuple[str, ...]:
    """The classes in the order of their first record."""
    return tuple(dict.fromkeys(record.class_name for record in records))


def available_defects(records: Sequence[Record]) -> list[Record]:
    """The known defects of the test split that are no training images already, in their order."""
    present = {(record.class_name, record.path) for record in records if record.split == "train"}
    return [
        record
        for record in records
        if record.split == "test" and record.label == ANOMALOUS and (record.class_name, record.path) not in present
    ]


def count_by_class(records: Iterable[Record], *, anomalous: bool) -> Counter[str]:
    """For each class the number of known defects, or of all other images (unknown labels count as normal)."""
    return Counter(record.class_name for record in records if (record.label == ANOMALOUS) == anomalous)
