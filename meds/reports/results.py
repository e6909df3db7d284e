"""The results by class: figures, thresholds with what they promise, and what they came to on the test images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from meds.core.finished_run import FinishedRun
from meds.core.metric_names import METRIC_NAMES
from meds.reports.opened import table


@dataclass(frozen=True)
class Outcomes:
    """Test images with a known label, and how many of them lie above their threshold."""

    normals: int
    false_alarms: int
    defects: int
    found: int


@dataclass(frozen=True)
class ClassResult:
    """One class. `figures` is empty without labels; `calibration` is None where the run stored none."""

    name: str
    figures: Mapping[str, float | None]
    threshold: float
    calibration: Mapping[str, Any] | None
    outcomes: Outcomes


@dataclass(frozen=True)
class LabelledScores:
    """Scores of the labelled test images of a class, float64 [n] and [m]."""

    normals: npt.NDArray[np.float64]
    defects: npt.NDArray[np.float64]


def class_results(run: FinishedRun) -> list[ClassResult]:
    """The results of every class."""
    metrics = run.metrics
    return [
        ClassResult(
            name,
            metrics["classes"].get(name, {}),
            metrics["thresholds"][name],
            metrics.get("calibration", {}).get(name),
            outcomes(run, name),
        )
        for name in run.data.class_names
    ]


def defined_figures(figures: Mapping[str, float | None]) -> dict[str, str]:
    """The titles of those of the seven figures that are defined."""
    return {key: title for key, title in METRIC_NAMES.items() if figures.get(key) is not None}


def rows_of_test_images(run: FinishedRun) -> list[dict[str, str]]:
    """The rows of predictions.csv, if they are about test images."""
    return table(run, "predictions.csv") if run.data.test else []


def outcomes(run: FinishedRun, class_name: str | None = None) -> Outcomes:
    """What the thresholds came to on the test images of a class, or of all."""
    rows = [row for row in rows_of_test_images(run) if class_name in (None, row["class"])]
    counts = {label: [row["decision"] == "anomalous" for row in rows if row["label"] == label] for label in "01"}
    return Outcomes(len(counts["0"]), sum(counts["0"]), len(counts["1"]), sum(counts["1"]))


def labelled_scores(run: FinishedRun, class_name: str) -> LabelledScores:
    """The scores of the labelled test images of a class."""
    rows = [row for row in rows_of_test_images(run) if row["class"] == class_name]
    by_label = [np.array([float(row["score"]) for row in rows if row["label"] == label]) for label in "01"]
    return LabelledScores(*by_label)
