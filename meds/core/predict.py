"""Scores images that a finished run has never seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from meds.core import scoring
from meds.core.backbone import Preprocessing
from meds.core.data import class_indices
from meds.core.errors import DataError, UserError
from meds.core.extract import encode, encoder_input
from meds.core.feature_cache import as_cached
from meds.core.finished_run import FinishedRun
from meds.core.image_files import printable
from meds.core.images import BitsError, UnreadableImageError
from meds.core.model import Scores
from meds.core.reporter import ProgressBar
from meds.core.thresholds import ClassThreshold, Thresholds, TrainingScores, lies_above, setting_the_threshold

Image = npt.NDArray[np.uint8]
BATCH = 8


@dataclass(frozen=True)
class Prediction:
    """One image: its score, the threshold it was held against, and its anomaly map float32 [S, S]."""

    score: float
    threshold: float
    map: npt.NDArray[np.float32]

    @property
    def anomalous(self) -> bool:
        """Whether the score lies above the threshold."""
        return lies_above(self.score, self.threshold)


@dataclass(frozen=True)
class Scored:
    """A file, its class, its pixels (RGB uint8 [H, W, 3]) and what was found."""

    path: Path
    class_name: str
    image: Image
    prediction: Prediction


class AnyPredictor(Protocol):
    """What `meds predict` needs: a run's predictor or an exported file's."""

    class_names: tuple[str, ...]
    thresholds: Thresholds
    preprocessing: Preprocessing

    def read(self, path: Path) -> Image:
        """An image file as RGB uint8 [H, W, 3], read as training images were; UnreadableImageError if it cannot be."""

    def predict(self, images: Sequence[Image], classes: Sequence[str]) -> list[Prediction]:
        """Predictions for RGB images uint8 [H, W, 3] of any size, each of a class that it knows."""


class Predictor:
    """The detector of a finished run: encoder, student, smoothing, image score and thresholds."""

    def __init__(self, run: FinishedRun) -> None:
        self.class_names = run.data.class_names
        self.settings = run.evaluation_settings
        self.thresholds = run_thresholds(run)
        self._run, self._pipeline = run, run.pipeline
        self._scorer = run.scorer()
        self.preprocessing = self._pipeline.backbone.preprocessing
        self._pipeline.backbone.to(self._pipeline.runtime.device)

    def read(self, path: Path) -> Image:
        """An image file as RGB uint8 [H, W, 3], as the run's dataset reads it; UnreadableImageError if it cannot be."""
        return self._pipeline.dataset.read_file(path)

    def predict(self, images: Sequence[Image], classes: Sequence[str]) -> list[Prediction]:
        """Predictions for RGB images uint8 [H, W, 3] of any size, each of a class of the run."""
        if not images:
            return []
        indices = torch.tensor([self.class_names.index(name) for name in classes])
        scores, smoothed = self._scores(images, indices)
        return [
            Prediction(float(score), self.thresholds.image[name], values.numpy())
            for score, values, name in zip(scores, smoothed, classes, strict=True)
        ]

    def training_scores(self, positions: Sequence[int], bar: ProgressBar) -> TrainingScores:
        """Scores of training images of the run as an evaluation takes them, computed anew from the files.

        Raises:
            DataError: an image is no longer there, or is another one now.
        """
        data = self._pipeline.data
        known, images, peaks, middles = self._scorer.training_scores(), [], [], []
        for start in range(0, len(positions), BATCH):
            rows = list(positions[start : start + BATCH])
            if known is None:
                read = [self._run.image(data.train[i]) for i in rows]
                scores, maps = self._scores(read, torch.tensor([data.train[i].class_index for i in rows]))
            else:
                scores, maps = self._image_scores(known.rows(rows))
            images.append(scores)
            peaks.append(maps.flatten(1).amax(dim=1))
            middles.append(maps.flatten(1).median(dim=1).values)
            bar.advance(len(rows))
        return TrainingScores(
            images=torch.cat(images).numpy(),
            peaks=torch.cat(peaks).numpy(),
            middles=torch.cat(middles).numpy(),
            classes=class_indices([data.train[i] for i in positions]),
        )

    def _scores(self, images: Sequence[Image], classes: Tensor) -> tuple[Tensor, Tensor]:
        pipeline = self._pipeline
        batch = torch.stack([encoder_input(image, self.preprocessing) for image in images])
        features = encode(pipeline.backbone, batch, self._scorer.layers, pipeline.runtime)
        # The feature cache keeps half precision; going the same way gives the same scores to the bit.
        kept = [pipeline.runtime.put(as_cached(values).float()) for values in features]
        with torch.inference_mode():
            return self._image_scores(self._scorer.scores(kept, pipeline.runtime.put(classes)))

    def _image_scores(self, found: Scores) -> tuple[Tensor, Tensor]:
        smoothed = scoring.smooth(scoring.pixel_map(found.maps, self.settings), self.settings)
        return scoring.model_scores(found, smoothed, self.settings).cpu(), smoothed.float().cpu()


def score_files(predictor: AnyPredictor, files: Sequence[tuple[Path, str]], unreadable: list[str]) -> list[Scored]:
    """Score a batch of files, given with their classes; a sentence for each that cannot be read goes to `unreadable`.

    Raises UserError if a score is no number, which no decision can be taken from.
    """
    images, known = [], []
    for path, name in files:
        try:
            images.append(predictor.read(path))
        except UnreadableImageError as error:
            unreadable.append(error.what)
        except (BitsError, DataError) as error:
            unreadable.append(str(error))
        else:
            known.append((path, name))
    predictions = predictor.predict(images, [name for _, name in known])
    for (path, _), found in zip(known, predictions, strict=True):
        if not math.isfinite(found.score):
            raise UserError(
                f"{printable(path)}: the detector's score for it is {found.score}, so the detector is damaged; export "
                "it again, or run its spec again."
            )
    return [Scored(*file, image, found) for file, image, found in zip(known, images, predictions, strict=True)]


def calibration_images(run: FinishedRun, class_name: str) -> npt.NDArray[np.intp]:
    """Where the training images are that set a class's thresholds."""
    members = class_indices(run.data.train) == run.data.class_names.index(class_name)
    scores = run.evaluation.tensors("scores")
    selected, unseen = np.array(run.evaluation.info["selected"], dtype=bool), scores["unseen"].bool().numpy()
    return np.flatnonzero(setting_the_threshold(members, selected, unseen, scores["normal"].numpy()))


def run_thresholds(run: FinishedRun) -> Thresholds:
    """The thresholds of a finished run, with the scores of the training images that they come from."""
    scores = {name: values.numpy() for name, values in run.evaluation.tensors("scores").items()}
    found = {}
    for name in run.data.class_names:
        row, chosen = run.calibration(name), calibration_images(run, name)
        low, high = row["heatmap"]
        found[name] = ClassThreshold(
            image=row["threshold"],
            pixel=row["pixel_threshold"],
            heatmap=(low, high),
            images=scores["train"][chosen].astype(np.float64),
            peaks=scores["peaks"][chosen].astype(np.float64),
            normal=scores["normal"][chosen],
            held_out=row["held_out"],
        )
    return Thresholds(found)
