"""The noise protocol `list`: the training set is exactly what a CSV file names, such as the authors' released lists."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from meds.core.contamination import (
    ClassNoise,
    Contaminated,
    NoiseProtocol,
    NoiseReport,
    available_defects,
    class_names,
    count_by_class,
)
from meds.core.dataset import ANOMALOUS, Record
from meds.core.errors import DataError
from meds.core.hookspecs import hookimpl
from meds.core.registry import Options, Plugin
from meds.plugins.noise import InjectOptions

PATH_COLUMN = "filename"


class ListOptions(Options):
    """Options of the noise protocol `list`."""

    list: Path = Field(
        description="A CSV file with a column `filename`: one row for each training image, by its path in the MVTec "
        "layout (<class>/train/good/<file>, <class>/test/<defect>/<file>)."
    )
    overlap: bool = Field(
        default=True,
        description="Keep the injected images in the test split too, as the paper does; false removes them.",
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_drawn(cls, data: Any) -> Any:
        """Refuse the options of `inject` in one sentence instead of as unknown keys one by one."""
        given = set(data) - set(cls.model_fields) if isinstance(data, dict) else set()
        drawing = [name for name in InjectOptions.model_fields if name in given]
        if drawing:
            raise ValueError(
                f"`list` and {', '.join(f'`{name}`' for name in drawing)} exclude each other, because the list itself "
                "says which images are used; leave out one or the other, on the command line with "
                "--set 'noise={list: FILE}'"
            )
        return data


@dataclass(frozen=True)
class _Row:
    """An image that the list names: line of the file, class, split and the whole path."""

    line: int
    class_name: str
    path: str


class ListProtocol(NoiseProtocol):
    """Takes the training images of a list; a defect whose path lies under `test/` is injected.

    Paths are matched by class, split, defect type and file name, so that a data set in another folder layout
    with the same file names serves as well. Rows of classes that the data do not have are ignored and counted;
    other columns are ignored: the class is the one in the path.
    """

    options: ListOptions

    def apply(self, records: Sequence[Record]) -> Contaminated:
        """The listed images in the data set's order, normal ones first; repeated rows are repeated images.

        Raises DataError if the file cannot be read, names an image that the data set lacks or has more than once,
        or lacks a class.
        """
        names = class_names(records)
        listed = _read(self.options.list)
        counts = Counter(row.path for row in self._of_classes(listed, names, Counter(map(layout_path, records))))
        train = [r for r in records for _ in range(counts[layout_path(r)]) if r.split == "train"]
        drawn = [r for r in records for _ in range(counts[layout_path(r)]) if r.split == "test"]
        removed = set() if self.options.overlap else set(drawn)
        everything = (*train, *(replace(record, split="train") for record in drawn))
        return Contaminated(
            everything,
            tuple(record.label == ANOMALOUS for record in everything),
            tuple(record for record in records if record.split == "test" and record not in removed),
            NoiseReport(
                _counts(names, records, train, drawn),
                "list",
                self.options.overlap,
                self._described(),
                Counter(row.class_name for row in listed if row.class_name not in names),
            ),
        )

    def _described(self) -> dict[str, object]:
        return self.options.model_dump(mode="json")

    def _of_classes(self, listed: Sequence[_Row], names: Sequence[str], known: Counter[str]) -> list[_Row]:
        path = self.options.list
        rows = [row for row in listed if row.class_name in names]
        for row in rows:
            if row.path not in known:
                raise DataError(f"{path}:{row.line}: the data set has no image '{row.path}'.")
            if known[row.path] > 1:
                raise DataError(
                    f"{path}:{row.line}: the data set has {known[row.path]} images that '{row.path}' may mean; "
                    "give them different names."
                )
        for name in names:
            if not any(row.class_name == name for row in rows):
                raise DataError(f"{path}: names no image of the class '{name}'; leave it out with `dataset.classes`.")
            if not any(row.path.startswith(f"{name}/train/") for row in rows):
                others = {row.class_name for row in listed if row.class_name.lower() == name.lower()} - {name}
                more = f" (but of {', '.join(sorted(map(repr, others)))}: capitals count)" if others else ""
                raise DataError(f"{path}: names no training image of the class '{name}'{more}, only test images.")
        return rows


def layout_path(record: Record) -> str:
    """The place of an image in the MVTec layout, whatever folder it really lies in."""
    return f"{record.class_name}/{record.split}/{record.defect or 'good'}/{Path(record.path).name}"


def _read(path: Path) -> list[_Row]:
    try:
        with path.expanduser().open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if PATH_COLUMN not in (reader.fieldnames or ()):
                raise DataError(
                    f"{path}:1: has no column '{PATH_COLUMN}', only {', '.join(map(repr, reader.fieldnames or ()))}; "
                    "the columns are separated by commas."
                )
            return [_row(path, reader.line_num, row[PATH_COLUMN] or "") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: the noise list cannot be read ({error}); check `noise.list`.") from error


def _row(path: Path, line: int, text: str) -> _Row:
    whole = text.strip()
    # As a program on Windows writes them.
    parts = (whole if "/" in whole else whole.replace("\\", "/")).removeprefix("./").split("/")
    if len(parts) < 4 or parts[-3] not in ("train", "test"):
        raise DataError(f"{path}:{line}: '{text}' is no path of the form <class>/train/good/<file>.")
    return _Row(line, parts[-4], "/".join(parts[-4:]))


def _counts(
    names: Sequence[str], records: Sequence[Record], train: Sequence[Record], drawn: Sequence[Record]
) -> dict[str, ClassNoise]:
    offered = count_by_class((r for r in records if r.split == "train"), anomalous=False)
    available = count_by_class(available_defects(records), anomalous=True)
    normals = count_by_class((*train, *drawn), anomalous=False)
    present = count_by_class(train, anomalous=True)
    injected = count_by_class(drawn, anomalous=True)
    return {
        name: ClassNoise(
            normals=normals[name],
            anomalies_available=available[name],
            already_present=present[name],
            requested=injected[name],
            injected=injected[name],
            dropped_normals=max(0, offered[name] - normals[name]),
        )
        for name in names
    }


@hookimpl
def meds_noise_protocols() -> Sequence[Plugin]:
    """The noise protocol `list`."""
    return [
        Plugin(
            name="list",
            options=ListOptions,
            load="meds.plugins.noise_list:ListProtocol",
            summary="Takes exactly the training images that a CSV file names.",
            without_type="list",
        )
    ]
