"""The dataset `visa`: VisA in its original layout with a split table, or reorganised into the layout of MVTec AD."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from meds.core import images
from meds.core.dataset import ANOMALOUS, NORMAL, Dataset, ImageFileOptions, Record, Split
from meds.core.errors import DataError
from meds.core.hookspecs import hookimpl
from meds.core.registry import Plugin
from meds.plugins.datasets.mvtec import MvtecDataset, MvtecOptions

COLUMNS = ("object", "split", "label", "image", "mask")
SPLIT_TABLE = Path("split_csv") / "1cls.csv"
REORGANISED = "1cls"
# The reorganised layout knows one defect type only. The original one has more (`image_anno.csv`), which are not read:
# both layouts must give the same records, and with them the same draw of noise.
DEFECT = "bad"
SPLITS: dict[str, Split] = {"train": "train", "test": "test"}


class VisaOptions(ImageFileOptions):
    """Options of the dataset `visa`."""

    path: Path = Field(
        description="The folder of the class folders and `split_csv`, or that of the reorganised `1cls` layout."
    )
    layout: Literal["auto", "original", "1cls"] = Field(
        default="auto", description="Which of the two layouts the folder has; auto looks."
    )
    split_csv: Path | None = Field(
        default=None, description="The split table of the original layout; default: `split_csv/1cls.csv` in the folder."
    )
    classes: list[str] | None = Field(
        default=None, min_length=1, description="The classes to use; all that are found if left out."
    )

    @model_validator(mode="after")
    def _table_belongs_to_the_original_layout(self) -> VisaOptions:
        if self.layout == "1cls" and self.split_csv is not None:
            raise ValueError("`split_csv` belongs to `layout: original`; in the layout 1cls the folders are the split")
        return self


class VisaDataset(Dataset[VisaOptions]):
    """VisA (Zou et al., ECCV 2022). All defects have the type "bad", and every one has a mask."""

    def records(self) -> Sequence[Record]:
        """All images by class, training images first, then the defects, each part sorted by path.

        Raises DataError if the folder has neither layout, the table is malformed, a class is unknown, or (unless
        the dataset is told to skip what cannot be read) an image or a mask is missing.
        """
        path = self.options.path
        if not path.is_dir():
            raise DataError(f"{path}: there is no such folder; check `dataset.path`.")
        if self._original():
            return self._from_table(self._table())
        folder = path / REORGANISED if (path / REORGANISED).is_dir() else path
        found = MvtecDataset(MvtecOptions(path=folder, classes=self.options.classes)).records()
        return [self._with_mask(record) for record in found]

    def read_mask(self, record: Record) -> npt.NDArray[np.bool_] | None:
        """The defect mask [H, W]: every pixel that is not zero, as its value is the number of its defect type."""
        return None if record.mask is None else np.asarray(images.read_rgb(Path(record.mask)).any(axis=2))

    def _original(self) -> bool:
        if self.options.layout != "auto":
            return self.options.layout == "original"
        path = self.options.path
        return self.options.split_csv is not None or any(path.glob("*/Data/Images"))

    def _table(self) -> Path:
        """The split table: below `path` if it is there, else as it is named."""
        given = self.options.split_csv or SPLIT_TABLE
        below = self.options.path / given
        return below if below.is_file() or self.options.split_csv is None else given

    def _from_table(self, table: Path) -> list[Record]:
        rows = _read(table)
        found = sorted({row["object"] for _, row in rows})
        wanted = found if self.options.classes is None else sorted(set(self.options.classes))
        for name in wanted:
            if name not in found:
                raise DataError(f"{table}: there is no class '{name}'; `dataset.classes` can name: {', '.join(found)}.")
        chosen = [self._record(f"{table}:{line}", row) for line, row in rows if row["object"] in wanted]
        return sorted(chosen, key=lambda r: (r.class_name, r.split == "test", r.defect, r.path))

    def _record(self, where: str, row: dict[str, str]) -> Record:
        normal = row["label"] == "normal"
        return Record(
            path=self._file(where, self.options.path / row["image"]),
            class_name=row["object"],
            split=SPLITS[row["split"]],
            label=NORMAL if normal else ANOMALOUS,
            defect="good" if normal else DEFECT,
            mask=None if normal else self._file(where, self.options.path / row["mask"]),
        )

    def _with_mask(self, record: Record) -> Record:
        """A test defect of the reorganised layout with the mask that it must have."""
        if record.mask is not None or record.label != ANOMALOUS or record.split != "test":
            return record
        image = Path(record.path)
        mask = image.parents[2] / "ground_truth" / image.parent.name / f"{image.stem}.png"
        return replace(record, mask=self._file(f"{image}: its mask is missing", mask))

    def _file(self, where: str, path: Path) -> str:
        if self.options.unreadable == "error" and not path.is_file():
            raise DataError(f"{where}: there is no file {path}; complete the copy or set `dataset.unreadable: skip`.")
        return str(path)


def _read(table: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a split table, checked as far as the files are not needed, each with its line."""
    try:
        # A table that a spreadsheet program has saved may start with a byte-order mark.
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"{table}:1: the column '{missing[0]}' is missing; it must have {', '.join(COLUMNS)}.")
            return [(reader.line_num, _checked(f"{table}:{reader.line_num}", row)) for row in reader]
    except FileNotFoundError as error:
        raise DataError(
            f"{table}: there is no such split table; copy it there or say where it is with `dataset.split_csv`."
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: the split table cannot be read ({error}); check `dataset.split_csv`.") from error


def _checked(where: str, row: dict[str, str]) -> dict[str, str]:
    values = {name: (row[name] or "").strip() for name in COLUMNS}
    if values["split"] not in SPLITS or values["label"] not in ("normal", "anomaly"):
        raise DataError(
            f"{where}: split '{values['split']}' and label '{values['label']}' are not understood; "
            "they must be train or test, and normal or anomaly."
        )
    for name in ("object", "image", *(("mask",) if values["label"] == "anomaly" else ())):
        if not values[name]:
            raise DataError(f"{where}: the column '{name}' is empty; fill it in or remove the line.")
    return values


@hookimpl
def meds_datasets() -> Sequence[Plugin]:
    """The plugin entry of this module."""
    return [
        Plugin(
            name="visa",
            options=VisaOptions,
            load="meds.plugins.datasets.visa:VisaDataset",
            summary="VisA, in its original layout with a split table or reorganised.",
        )
    ]
