"""The dataset `elpv`: solar cells in electroluminescence images, from the package `elpv-dataset`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from meds.core.dataset import ANOMALOUS, NORMAL, Dataset, DatasetOptions, Record
from meds.core.errors import DataError
from meds.core.hookspecs import hookimpl
from meds.core.registry import Plugin

PACKAGE = "elpv_dataset"
CELL_TYPES = ("mono", "poly")


class ElpvOptions(DatasetOptions):
    """Options of the dataset `elpv`."""

    cells: Literal["mono", "poly", "all"] = Field(
        default="mono", description="Monocrystalline cells, polycrystalline cells, or both as two classes."
    )
    train_fraction: float = Field(
        default=0.6,
        gt=0,
        lt=1,
        description="Share of the normal cells to train on; the others are for testing.",
    )
    seed: int = Field(default=0, ge=0, description="Draws the normal cells to train on.")


class ElpvDataset(Dataset[ElpvOptions]):
    """2,624 solar cells whose chance of being defective was graded by an expert: 0, 1/3, 2/3 or 1.

    Grade 0 is normal and grade 1 defective; the doubtful cells between are left out. There are no masks.
    All defective cells are test images. A cell type's split does not depend on whether the other is used.
    """

    def records(self) -> Sequence[Record]:
        """By cell type: training images, then test images, each part sorted by path.

        Raises DataError if the package is not installed or its labels cannot be read.
        """
        folder = _data_folder()
        grades = _read_grades(folder / "labels.csv")
        wanted = CELL_TYPES if self.options.cells == "all" else (self.options.cells,)
        return [record for cell_type in wanted for record in self._of_type(folder, cell_type, grades)]

    def _of_type(self, folder: Path, cell_type: str, grades: list[tuple[str, float, str]]) -> list[Record]:
        normal = sorted(name for name, grade, kind in grades if kind == cell_type and grade == 0)
        defective = sorted(name for name, grade, kind in grades if kind == cell_type and grade == 1)
        order = np.random.default_rng(self.options.seed).permutation(len(normal))
        chosen = set(order[: round(len(normal) * self.options.train_fraction)].tolist())
        train = [name for index, name in enumerate(normal) if index in chosen]
        held_out = [name for index, name in enumerate(normal) if index not in chosen]
        return [
            *(Record(str(folder / name), cell_type, "train", NORMAL, "good") for name in train),
            *(Record(str(folder / name), cell_type, "test", NORMAL, "good") for name in held_out),
            *(Record(str(folder / name), cell_type, "test", ANOMALOUS, "defective") for name in defective),
        ]


def _data_folder() -> Path:
    # The package is found but not imported: its functions would decode all images at once.
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "The dataset `elpv` needs the package elpv-dataset, which is not installed; run "
            "`pip install elpv-dataset` (or `pip install 'meds-ad[demo]'`)."
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def _read_grades(path: Path) -> list[tuple[str, float, str]]:
    """The label file's lines: image name, grade 0..1, cell type."""
    try:
        rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [(name, float(grade), cell_type) for name, grade, cell_type in rows]
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: the labels of elpv-dataset cannot be read ({error}); reinstall it with "
            "`pip install --force-reinstall elpv-dataset`."
        ) from error


@hookimpl
def meds_datasets() -> Sequence[Plugin]:
    """The plugin entry of this module."""
    return [
        Plugin(
            name="elpv",
            options=ElpvOptions,
            load="meds.plugins.datasets.elpv:ElpvDataset",
            summary="Solar cells from the package elpv-dataset (2,223 of known state; no download).",
        )
    ]
