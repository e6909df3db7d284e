"""Compares an exported file with the run it came from, on images that the student was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meds.core.data import Sample
from meds.core.finished_run import FinishedRun
from meds.core.predict import BATCH, AnyPredictor, Prediction
from meds.export.calibration import FileCalibration


@dataclass(frozen=True)
class Compared:
    """An image with the run's and the file's score; `gap` is how far they are apart as shares of their thresholds."""

    path: str
    run_score: float
    file_score: float
    gap: float

    def __str__(self) -> str:
        return f"{self.path}, run {self.run_score:.6g}, file {self.file_score:.6g}"


@dataclass(frozen=True)
class Difference:
    """How far two detectors differ: the image whose scores differ most, and those whose decisions differ."""

    images: int
    worst: Compared
    flipped: list[Compared]


def unseen_samples(run: FinishedRun, class_name: str, count: int, calibration: FileCalibration) -> list[Sample]:
    """Test images of the class and training images that were held out, spread evenly over their order.

    Without the images whose scores are the run's threshold and the file's: the last digit of these would decide.
    """
    stored, train = run.evaluation.tensors("scores"), run.data.train
    threshold = run.calibration(class_name)["threshold"]
    at_own = calibration.positions[np.isclose(calibration.threshold.images, calibration.threshold.image, rtol=1e-6)]
    at_run = np.flatnonzero(np.isclose(stored["train"].numpy(), threshold, rtol=1e-6))
    # By their content: with overlapping noise a training image is a test image too.
    left_out = {train[i].digest for i in (*at_own, *at_run)}
    held = [sample for sample, fresh in zip(train, stored["unseen"].tolist(), strict=True) if fresh]
    found = [s for s in (*run.data.test, *held) if s.record.class_name == class_name and s.digest not in left_out]
    found = found or [s for s in train if s.record.class_name == class_name]
    places = np.unique(np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int))
    return [found[i] for i in places]


def predictions(
    predictor: AnyPredictor, run: FinishedRun, class_name: str, samples: Sequence[Sample]
) -> list[Prediction]:
    """What a predictor says of images of the run, all held to be of one class."""
    found: list[Prediction] = []
    for start in range(0, len(samples), BATCH):
        images = [run.image(sample) for sample in samples[start : start + BATCH]]
        found += predictor.predict(images, [class_name] * len(images))
    return found


def difference(samples: Sequence[Sample], run: Sequence[Prediction], file: Sequence[Prediction]) -> Difference:
    """Compare two predictions of the same images, each by its own threshold."""
    rows = [
        Compared(sample.record.path, a.score, b.score, abs(_share(a) - _share(b)))
        for sample, a, b in zip(samples, run, file, strict=True)
    ]
    flipped = [row for row, a, b in zip(rows, run, file, strict=True) if a.anomalous != b.anomalous]
    return Difference(len(rows), max(rows, key=lambda row: row.gap), flipped)


def _share(prediction: Prediction) -> float:
    return prediction.score / (abs(prediction.threshold) or 1.0)


def default_path(run: FinishedRun, class_name: str, suffix: str) -> Path:
    """Where an export is written if nothing else is said."""
    several = len(run.data.class_names) > 1
    return Path(f"{run.spec.name}-{class_name}{suffix}" if several else f"{run.spec.name}{suffix}")
