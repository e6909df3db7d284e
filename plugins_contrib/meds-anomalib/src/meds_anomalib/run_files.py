"""Reads what a finished meds run says of its images: spec.yaml, data.csv and ranking.csv."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from meds.api import UserError

DATA_COLUMNS = ("path", "sha256", "class", "split", "label", "mask", "injected")
RANKING_COLUMNS = ("rank", "path", "class", "score", "selected", "injected")


@dataclass(frozen=True)
class TrainingImage:
    """A row of ranking.csv: `rank` 1 is the most suspicious image; `injected`: known to be a defect."""

    rank: int
    path: str
    class_name: str
    score: str
    selected: bool
    injected: bool


@dataclass(frozen=True)
class TestImage:
    """A test row of data.csv: `label` 0 (normal), 1 (anomalous) or None (unknown); `mask` a path or None."""

    path: str
    sha256: str
    class_name: str
    label: int | None
    mask: str | None


@dataclass(frozen=True)
class FinishedRun:
    """The images of a run. `digests` maps the path of every training image to its sha256."""

    name: str
    dataset: str
    training: tuple[TrainingImage, ...]
    test: tuple[TestImage, ...]
    digests: dict[str, str]

    def of_classes(self, names: Sequence[str]) -> FinishedRun:
        """The part of some classes; UserError for a class that the run has not."""
        known = sorted({image.class_name for image in self.training})
        for name in names:
            if name not in known:
                raise UserError(f"The run '{self.name}' has no class '{name}'; it has: {', '.join(known)}.")
        training = tuple(image for image in self.training if image.class_name in names)
        test = tuple(image for image in self.test if image.class_name in names)
        return FinishedRun(self.name, self.dataset, training, test, self.digests)


def read_run(folder: Path) -> FinishedRun:
    """A finished run's images; UserError if the folder is none, or the run has not been evaluated."""
    spec = _spec(folder / "spec.yaml")
    ranking = _rows(folder / "ranking.csv", RANKING_COLUMNS)
    data = _rows(folder / "data.csv", DATA_COLUMNS)
    training = tuple(
        TrainingImage(
            int(row["rank"]),
            row["path"],
            row["class"],
            row["score"],
            row["selected"] == "1",
            row["injected"] == "1",
        )
        for row in ranking
    )
    test = tuple(
        TestImage(
            row["path"], row["sha256"], row["class"], int(row["label"]) if row["label"] else None, row["mask"] or None
        )
        for row in data
        if row["split"] == "test"
    )
    digests = {row["path"]: row["sha256"] for row in data if row["split"] == "train"}
    return FinishedRun(str(spec["name"]), str(spec["dataset"]["type"]), training, test, digests)


def _spec(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {"name": found["name"], "dataset": {"type": found["dataset"]["type"]}}
    except FileNotFoundError:
        raise UserError(f"{path.parent} is not the directory of a meds run: it has no {path.name}.") from None
    except (OSError, yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}); run the spec again.") from error


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except FileNotFoundError:
        raise UserError(
            f"The run in {path.parent} has no {path.name}: finish it with `meds run`, with the stage evaluate at its "
            "end."
        ) from None
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); run the spec again.") from error
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise UserError(f"{path} has no column '{missing[0]}': it was not written by a version of meds that fits.")
    return rows
