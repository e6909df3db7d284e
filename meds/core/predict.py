"""Scores images that a finished run has never seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from meds.core import scoring
from meds.core.backbone import Preprocessing, normalise
from meds.core.data import class_indices
from meds.core.extract import encode
from meds.core.feature_cache import as_cached
from meds.core.finished_run import FinishedRun
from meds.core.images import resize_and_crop
from meds.core.thresholds import ClassThreshold, Thresholds

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Prediction:
    """One image: its score, the threshold it was held against, and its anomaly map float32 [S, S]."""

    score: float
    threshold: float
    map: npt.NDArray[np.float32]

    @property
    def anomalous(self) -> bool:
        """Whether the score lies above the threshold."""
        return self.score > self.threshold


class AnyPredictor(Protocol):
    """What `meds predict` needs: a run's predictor or an exported file's."""

    class_names: tuple[str, ...]
    thresholds: Thresholds
    preprocessing: Preprocessing

    def predict(self, images: Sequence[Image], classes: Sequence[str]) -> list[Prediction]:
        """Predictions for RGB images uint8 [H, W, 3] of any size, each of a class that it knows."""


class Predictor:
    """The detector of a finished run: encoder, student, smoothing, image score and thresholds."""

    def __init__(self, run: FinishedRun) -> None:
        self.class_names = run.data.class_names
        self.settings = run.evaluation_settings
        self.thresholds = run_thresholds(run)
        self._pipeline = run.pipeline
        self._scorer = run.scorer()
        self.preprocessing = self._pipeline.backbone.preprocessing
        self._pipeline.backbone.to(self._pipeline.runtime.device)

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

    def _scores(self, images: Sequence[Image], classes: Tensor) -> tuple[Tensor, Tensor]:
        pipeline, preprocessing = self._pipeline, self.preprocessing
        batch = torch.stack(
            [torch.from_numpy(normalise(resize_and_crop(i, preprocessing), preprocessing)) for i in images]
        )
        features = encode(pipeline.backbone, batch, self._scorer.layers, pipeline.runtime)
        # The feature cache keeps half precision; going the same way gives the same scores to the bit.
        kept = [pipeline.runtime.put(as_cached(values).float()) for values in features]
        with torch.inference_mode():
            found = self._scorer.scores(kept, pipeline.runtime.put(classes))
            smoothed = scoring.smooth(scoring.pixel_map(found.maps, self.settings), self.settings)
            return scoring.model_scores(found, smoothed, self.settings).cpu(), smoothed.float().cpu()


def run_thresholds(run: FinishedRun) -> Thresholds:
    """The thresholds of a finished run, with the scores of the training images that they come from."""
    scores = {name: values.numpy() for name, values in run.evaluation.tensors("scores").items()}
    selected = np.array(run.evaluation.info["selected"], dtype=bool)
    indices = class_indices(run.data.train)
    found = {}
    for index, name in enumerate(run.data.class_names):
        row = run.metrics["calibration"][name]
        chosen = (indices == index) & selected
        if row["held_out"]:
            chosen &= scores["unseen"].astype(bool)
        low, high = row["heatmap"]
        found[name] = ClassThreshold(
            image=row["threshold"],
            pixel=row["pixel_threshold"],
            heatmap=(low, high),
            images=scores["train"][chosen].astype(np.float64),
            peaks=scores["peaks"][chosen].astype(np.float64),
            held_out=row["held_out"],
        )
    return Thresholds(found)
