"""Compares an exported file with the run it came from, on images that the student was not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meds.core.data import Sample
from meds.core.finished_run import FinishedRun
from meds.core.predict import AnyPredictor, Predictor

BATCH = 8


@dataclass(frozen=True)
class Compared:
    """An image with the run's and the file's score; `gap` is their difference as a share of the threshold."""

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


def unseen_samples(run: FinishedRun, class_name: str, count: int) -> list[Sample]:
    """Test images of the class and training images that were held out, spread evenly over their order.

    Without the image whose score is the threshold: the last digit of that score would decide.
    """
    stored = run.evaluation.tensors("scores")
    threshold = run.metrics["calibration"][class_name]["threshold"]
    free = stored["unseen"].bool().numpy() & ~np.isclose(stored["train"].numpy(), threshold, rtol=1e-6)
    held = [sample for sample, keep in zip(run.data.train, free.tolist(), strict=True) if keep]
    found = [s for s in (*run.data.test, *held) if s.record.class_name == class_name]
    found = found or [s for s in run.data.train if s.record.class_name == class_name]
    places = np.unique(np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int))
    return [found[i] for i in places]


def compare(run: FinishedRun, exported: AnyPredictor, class_name: str, samples: list[Sample]) -> Difference:
    """Score the images with both; the run in its own precision."""
    own = Predictor(run)
    scale = abs(own.thresholds.image[class_name]) or 1.0
    rows: list[Compared] = []
    flipped: list[Compared] = []
    for start in range(0, len(samples), BATCH):
        chosen = samples[start : start + BATCH]
        images = [run.pipeline.dataset.read_image(sample.record) for sample in chosen]
        names = [class_name] * len(images)
        pairs = zip(chosen, own.predict(images, names), exported.predict(images, names), strict=True)
        for sample, a, b in pairs:
            rows.append(Compared(sample.record.path, a.score, b.score, abs(a.score - b.score) / scale))
            flipped += rows[-1:] if a.anomalous != b.anomalous else []
    return Difference(len(rows), max(rows, key=lambda row: row.gap), flipped)


def default_path(run: FinishedRun, class_name: str, suffix: str) -> Path:
    """Where an export is written if nothing else is said."""
    several = len(run.data.class_names) > 1
    return Path(f"{run.spec.name}-{class_name}{suffix}" if several else f"{run.spec.name}{suffix}")
