"""Reads a data set's records: checks them, and hashes each image and mask once, however often it is asked."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, get_args

from meds.core.dataset import ANOMALOUS, NORMAL, Dataset, Record, Split
from meds.core.errors import DataError
from meds.core.reporter import Reporter

Stamp = tuple[tuple[str, int, int], ...]
"""Size in bytes and time of change in nanoseconds of a file, or of each file in a folder, with its name."""


@dataclass(frozen=True)
class Content:
    """What was found of one record: digests of image and mask ("" without one), and whether it can be read."""

    digest: str = ""
    mask_digest: str = ""
    readable: bool = True


@dataclass
class KnownContents:
    """What was found of the records of one data set, for the life of a process that reads it several times.

    It holds for one resolved block `dataset` alone. An image counts as known while its file and its mask's have the
    size and time of change that they had; one that is made in memory, because the same options make it again.
    """

    found: dict[Record, tuple[Stamp, Stamp, Content]] = field(default_factory=dict)


class KnownDataSets:
    """What was found of several data sets, each known by its resolved block `dataset`."""

    def __init__(self) -> None:
        self._contents: dict[str, KnownContents] = {}

    def of(self, block: Mapping[str, Any]) -> KnownContents:
        """What is known of a data set's records; it is added to."""
        return self._contents.setdefault(json.dumps(block, sort_keys=True), KnownContents())


@dataclass(frozen=True)
class ReadRecords:
    """The records whose images can be read, digests of image and mask by the image's path, and the unreadable paths."""

    kept: list[Record]
    digests: dict[str, tuple[str, str]]
    unreadable: list[str]


def read_records(dataset: Dataset[Any], reporter: Reporter | None, known: KnownContents) -> ReadRecords:
    """List, hash and check a dataset's images; `reporter` shows how far it is, `known` takes in what was found.

    Raises:
        DataError: an image cannot be read and the dataset is not told to skip it, a mask has another size than its
            image, a record is none, or a path stands for two images.
    """
    records = _checked(dataset.records())
    read = ReadRecords([], {}, [])
    with nullcontext() if reporter is None else reporter.bar("images", len(records)) as bar:
        for record in records:
            content = _content(dataset, record, known)
            if content.readable:
                digest, of_mask = read.digests.get(record.path, (content.digest, ""))
                if digest != content.digest:
                    raise DataError(f"{record.path}: the dataset gives two images under this path; it must name one.")
                read.digests[record.path] = (digest, content.mask_digest or of_mask)
                read.kept.append(record)
            else:
                read.unreadable.append(record.path)
            if bar is not None:
                bar.advance()
    return read


def _checked(records: Sequence[Record]) -> Sequence[Record]:
    """The records, once it is sure that they are some, and that split and label are what they may be."""
    if not records:
        raise DataError("The dataset lists no images; check the options of `dataset`.")
    for record in records:
        if record.split not in get_args(Split):
            raise DataError(f"{record.path}: the dataset puts it into the split {record.split!r}: 'train' or 'test'.")
        if record.label not in (None, NORMAL, ANOMALOUS):
            raise DataError(
                f"{record.path}: the dataset labels it {record.label!r}: 0 (normal), 1 (defective) or None (unknown)."
            )
    return records


def _content(dataset: Dataset[Any], record: Record, known: KnownContents) -> Content:
    """What is found of a record, or was found while its files were as they are now."""
    # Before they are read: what is written meanwhile must be read again next time.
    stamps = (_stamp(record.path), _stamp(record.mask))
    if record in known.found:
        *before, content = known.found[record]
        if tuple(before) == stamps:
            return content
    content = _read(dataset, record)
    known.found[record] = (*stamps, content)
    return content


def _read(dataset: Dataset[Any], record: Record) -> Content:
    """Digests of image and mask; not readable if one cannot be read and the dataset is told to skip such images."""
    try:
        digest = dataset.digest(record)
        if dataset.options.unreadable == "skip":
            dataset.read_image(record)
            dataset.read_mask(record)
    except DataError:
        if dataset.options.unreadable == "error":
            raise
        return Content(readable=False)
    _check_mask(dataset, record)
    return Content(digest, dataset.mask_digest(record))


def _check_mask(dataset: Dataset[Any], record: Record) -> None:
    size = dataset.mask_size(record)
    if size is None:
        return
    image = dataset.image_size(record)
    if size != image:
        raise DataError(
            f"{record.mask}: the mask has {size[1]}x{size[0]} pixels, its image {record.path} has "
            f"{image[1]}x{image[0]}; make them equal or remove the mask."
        )


def _stamp(path: str | None) -> Stamp:
    """Of a file or of the files in a folder of masks; empty where nothing lies under that name."""
    if path is None:
        return ()
    try:
        if not os.path.isdir(path):  # noqa: PTH112
            return (_of(path, os.stat(path)),)  # noqa: PTH116
        with os.scandir(path) as entries:
            return tuple(sorted(_of(entry.name, entry.stat()) for entry in entries))
    except (OSError, ValueError):
        return ()


def _of(name: str, found: os.stat_result) -> tuple[str, int, int]:
    return name, found.st_size, found.st_mtime_ns
