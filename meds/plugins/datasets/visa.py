"""The dataset `visa`: VisA in its original layout with a split table, or reorganised into the layout of MVTec AD."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from meds.core.dataset import ANOMALOUS, NORMAL, Dataset, DatasetOptions, Record, Split
from meds.core.errors import DataError
from meds.core.hookspecs import hookimpl
from meds.core.registry import Plugin
from meds.plugins.datasets.mvtec import MvtecDataset, MvtecOptions

COLUMNS = ("object", "split", "label", "image", "mask")
SPLIT_TABLE = Path("split_csv") / "1cls.csv"
REORGANISED = "1cls"
# The reorganised layout knows one defect type only; both layouts give the same records.
DEFECT = "bad"
SPLITS: dict[str, Split] = {"train": "train", "test": "test"}


class VisaOptions(DatasetOptions):
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


class VisaDataset(Dataset[VisaOptions]):
    """VisA (Zou et al., ECCV 2022). Mask pixels that are not zero are the defect, whatever their number."""

    def records(self) -> Sequence[Record]:
        """All images by class, training images first, then the defects, each part sorted by path.

        Raises DataError if the folder has neither layout, the table is malformed, or a class is unknown.
        """
        path = self.options.path
        if not path.is_dir():
            raise DataError(f"{path}: there is no such folder; check `dataset.path`.")
        if self._original():
            return self._from_table(self.options.split_csv or path / SPLIT_TABLE)
        folder = path / REORGANISED if (path / REORGANISED).is_dir() else path
        return MvtecDataset(MvtecOptions(path=folder, classes=self.options.classes)).records()

    def _original(self) -> bool:
        if self.options.layout != "auto":
            return self.options.layout == "original"
        path = self.options.path
        return self.options.split_csv is not None or any(path.glob("*/Data/Images"))

    def _from_table(self, table: Path) -> list[Record]:
        rows = self._read(table)
        found = sorted({record.class_name for record in rows})
        wanted = found if self.options.classes is None else sorted(set(self.options.classes))
        for name in wanted:
            if name not in found:
                raise DataError(f"{table}: there is no class '{name}'; `dataset.classes` can name: {', '.join(found)}.")
        chosen = [record for record in rows if record.class_name in wanted]
        return sorted(chosen, key=lambda r: (r.class_name, r.split == "test", r.defect, r.path))

    def _read(self, table: Path) -> list[Record]:
        try:
            with table.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
                if missing:
                    raise DataError(
                        f"{table}:1: the column '{missing[0]}' is missing; it must have {', '.join(COLUMNS)}."
                    )
                return [self._record(table, reader.line_num, row) for row in reader]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{table}: the split table cannot be read ({error}); give it as `dataset.split_csv`."
            ) from error

    def _record(self, table: Path, line: int, row: dict[str, str]) -> Record:
        values = {name: (row[name] or "").strip() for name in COLUMNS}
        if values["split"] not in SPLITS or values["label"] not in ("normal", "anomaly"):
            raise DataError(
                f"{table}:{line}: split '{values['split']}' and label '{values['label']}' are not understood; "
                "they must be train or test, and normal or anomaly."
            )
        normal = values["label"] == "normal"
        image, mask = self._file(table, line, values["image"]), None
        if values["mask"] and not normal:
            mask = str(self._file(table, line, values["mask"]))
        return Record(
            path=str(image),
            class_name=values["object"],
            split=SPLITS[values["split"]],
            label=NORMAL if normal else ANOMALOUS,
            defect="good" if normal else DEFECT,
            mask=mask,
        )

    def _file(self, table: Path, line: int, name: str) -> Path:
        path = self.options.path / name
        if not name or not path.is_file():
            raise DataError(f"{table}:{line}: there is no file {path}.")
        return path


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
