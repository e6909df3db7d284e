"""The thresholds that an exported file carries: those of the run in float32, which is what the file computes in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from meds.core.finished_run import FinishedRun
from meds.core.predict import Predictor, calibration_images, run_thresholds
from meds.core.reporter import Reporter
from meds.core.thresholds import ClassThreshold, class_thresholds


@dataclass(frozen=True)
class FileCalibration:
    """A class's thresholds, their calibration as in metrics.json, and the training images that set them.

    `positions` [n] are those images' places among the run's training images, in the order of `threshold.images`.
    """

    threshold: ClassThreshold
    calibration: dict[str, Any]
    positions: npt.NDArray[np.intp]


def file_calibration(exact: FinishedRun, class_name: str, reporter: Reporter) -> FileCalibration:
    """The calibration of a run that was opened in float32.

    Its own where it was made in float32; else the images that set its thresholds are scored again, and thresholds
    and heatmap chosen from these scores as an evaluation does it.

    Raises:
        DataError: an image is no longer there.
    """
    row, positions = exact.calibration(class_name), calibration_images(exact, class_name)
    if exact.made_in == "fp32":
        return FileCalibration(run_thresholds(exact).classes[class_name], row, positions)
    with reporter.bar("thresholds in float32", len(positions)) as bar:
        scores = Predictor(exact).training_scores(positions.tolist(), bar)
    every = np.ones(len(positions), dtype=bool)
    normal = exact.evaluation.tensors("scores")["normal"].numpy()[positions]
    index = exact.data.class_names.index(class_name)
    found = class_thresholds(scores, index, every, every & row["held_out"], normal, row["wanted"])
    low, high = found["heatmap"]
    threshold = ClassThreshold(
        image=found["threshold"],
        pixel=found["pixel_threshold"],
        heatmap=(low, high),
        images=scores.images.astype(np.float64),
        peaks=scores.peaks.astype(np.float64),
        normal=normal,
        held_out=found["held_out"],
    )
    return FileCalibration(threshold, found, positions)
