"""The images of a run: scanned, hashed, contaminated by the noise protocol, and listed in data.csv."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from meds.core import files
from meds.core.contamination import NoiseProtocol, without_noise
from meds.core.dataset import Dataset, Record
from meds.core.errors import DataError
from meds.core.image_files import one_line
from meds.core.records import KnownContents, read_records
from meds.core.reporter import Reporter

COLUMNS = ("path", "sha256", "class", "split", "label", "defect", "mask", "mask_sha256", "injected")
# What a table must have to be read; digests of masks came later than the first runs.
_NEEDED = set(COLUMNS) - {"mask_sha256"}
MINIMUM_TRAINING_IMAGES = 2


@dataclass(frozen=True)
class Sample:
    """An image as a run uses it: its record, content digest and class index.

    `injected` is True for a training image that is known to be a defect, `confirmed` for one that a person has
    judged to be normal. The record's split is where the image came from; a run's own split is where it is put.
    `mask_digest` is that of its mask's content, empty without one.
    """

    record: Record
    digest: str
    class_index: int
    injected: bool = False
    confirmed: bool = False
    mask_digest: str = ""


@dataclass(frozen=True)
class RunData:
    """Training and test images of a run, the class names, the noise report and the unreadable paths.

    `noise` is `NoiseReport.as_dict()`, and for each class and in total `in_both_splits`: the number of test images
    whose content is among the training images, by the noise protocol or by the data set itself.
    """

    class_names: tuple[str, ...]
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    noise: dict[str, Any]
    unreadable: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """sha256 over what the stages can see of the data, labels and masks included."""
        return files.fingerprint([[[*row.values()] for row in self.rows()], self.confirmed_fingerprint])

    @property
    def confirmed_fingerprint(self) -> str:
        """sha256 over which training images a person has judged to be normal."""
        return files.fingerprint([i for i, sample in enumerate(self.train) if sample.confirmed])

    @property
    def training_fingerprint(self) -> str:
        """sha256 over the training images only: their content, order and class."""
        return files.fingerprint([self.class_names, [(s.digest, s.class_index) for s in self.train]])

    def samples(self) -> tuple[Sample, ...]:
        """Training images, then test images."""
        return (*self.train, *self.test)

    def rows(self) -> list[dict[str, str]]:
        """The rows of data.csv; `split` is the run's use of an image, so that injected defects stand under "train"."""
        return [*(_row(sample, "train") for sample in self.train), *(_row(sample, "test") for sample in self.test)]

    def to_csv(self) -> str:
        """The text of data.csv."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows())
        return text.getvalue()


def read_csv(text: str, noise: dict[str, Any]) -> RunData:
    """The images that `RunData.to_csv` wrote, without looking at them; ValueError if the text is no such table."""
    reader = csv.DictReader(io.StringIO(text))
    lacking = _NEEDED - set(reader.fieldnames or ())
    if lacking:
        raise ValueError(f"it lacks the column '{min(lacking)}'")
    rows = list(reader)
    names = tuple(sorted({row["class"] for row in rows}))
    parts: dict[str, list[Sample]] = {"train": [], "test": []}
    for row in rows:
        parts[row["split"]].append(_sample(row, names.index(row["class"])))
    return RunData(names, tuple(parts["train"]), tuple(parts["test"]), noise)


def _sample(row: Mapping[str, str], class_index: int) -> Sample:
    record = Record(
        path=row["path"],
        class_name=row["class"],
        split="train" if row["split"] == "train" else "test",
        label=int(row["label"]) if row["label"] else None,
        defect=row["defect"] or None,
        mask=row["mask"] or None,
    )
    return Sample(record, row["sha256"], class_index, row["injected"] == "1", mask_digest=row.get("mask_sha256") or "")


def _row(sample: Sample, split: str) -> dict[str, str]:
    record = sample.record
    values = (
        record.path,
        sample.digest,
        record.class_name,
        split,
        "" if record.label is None else str(int(record.label)),
        record.defect or "",
        record.mask or "",
        sample.mask_digest,
        str(int(sample.injected)),
    )
    return dict(zip(COLUMNS, values, strict=True))


def scan(
    dataset: Dataset[Any],
    protocol: NoiseProtocol | None,
    reporter: Reporter | None = None,
    known: KnownContents | None = None,
) -> RunData:
    """List, hash and check a dataset's images, then apply the noise protocol; `reporter` shows how far it is.

    `known` is what earlier scans of the same dataset, with the same options, have found; this one adds to it.

    Raises DataError for an unreadable image (unless the dataset is told to skip them), a mask of another size than its
    image, a class with fewer than two training images, a record that is none, or a path that stands for two images.
    """
    read = read_records(dataset, reporter, known or KnownContents())
    try:
        result = without_noise(read.kept) if protocol is None else protocol.apply(read.kept)
    except DataError as error:
        if read.unreadable:
            number, one = len(read.unreadable), one_line(read.unreadable[0])
            error.add_note(f"Images left out because they cannot be read: {number}, such as {one}.")
        raise
    names = tuple(sorted({record.class_name for record in (*result.train, *result.test)}))
    check_classes(names, result.train)

    def sample(record: Record, injected: bool = False) -> Sample:
        digest, mask_digest = read.digests[record.path]
        return Sample(record, digest, names.index(record.class_name), injected, mask_digest=mask_digest)

    train = tuple(map(sample, result.train, result.injected))
    test = tuple(map(sample, result.test))
    return RunData(names, train, test, with_shared(result.report.as_dict(), train, test), tuple(read.unreadable))


def with_shared(noise: Mapping[str, Any], train: Sequence[Sample], test: Sequence[Sample]) -> dict[str, Any]:
    """A noise report with the number of test images that are training images too, by class and in total."""
    trained = {sample.digest for sample in train}
    shared = Counter(sample.record.class_name for sample in test if sample.digest in trained)
    classes = {name: {**row, "in_both_splits": shared[name]} for name, row in noise["classes"].items()}
    return {**noise, "classes": classes, "total": {**noise["total"], "in_both_splits": shared.total()}}


def digest_of_images(samples: Sequence[Sample]) -> str:
    """A digest of which images these are, whatever their order; an image that stands twice counts twice."""
    return hashlib.sha256("".join(sorted(sample.digest for sample in samples)).encode()).hexdigest()


def check_classes(names: Sequence[str], train: Sequence[Record]) -> None:
    """DataError for a class with fewer than two training images."""
    counts = {name: sum(record.class_name == name for record in train) for name in names}
    for name, count in counts.items():
        if count < MINIMUM_TRAINING_IMAGES:
            raise too_few_images(f"The class '{name}' has", count)


def too_few_images(who: str, count: int) -> DataError:
    """The error for a class or folder with fewer training images than can be compared; `who` ends in "has"."""
    return DataError(
        f"{who} {count} training image{'s' * (count != 1)}; meds compares images of a class with each other and needs "
        f"at least {MINIMUM_TRAINING_IMAGES} (many more to be useful)."
    )


def class_indices(samples: Sequence[Sample]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Class index of each sample, int64 [n]."""
    return np.array([sample.class_index for sample in samples], dtype=np.int64)
