"""Scores images that a finished run has never seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from meds.core import scoring
from meds.core.backbone import normalise
from meds.core.calibration import calibrate
from meds.core.errors import UserError
from meds.core.extract import encode
from meds.core.feature_cache import as_cached
from meds.core.finished_run import FinishedRun
from meds.core.images import resize_and_crop


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


class Predictor:
    """The detector of a finished run: encoder, student, smoothing, image score and thresholds."""

    def __init__(self, run: FinishedRun) -> None:
        self.run = run
        self.class_names = run.data.class_names
        self.settings = run.evaluation_settings
        self.calibration: Mapping[str, Mapping[str, Any]] = run.metrics["calibration"]
        self.thresholds: dict[str, float] = dict(run.metrics["thresholds"])
        self.pixel_thresholds = {name: float(row["pixel_threshold"]) for name, row in self.calibration.items()}
        self._pipeline = run.pipeline
        self._scorer = run.scorer()
        self.preprocessing = self._pipeline.backbone.preprocessing
        self._pipeline.backbone.to(self._pipeline.runtime.device)

    def set_threshold(self, value: float) -> None:
        """Hold all classes against one threshold."""
        self.thresholds = dict.fromkeys(self.thresholds, value)

    def set_false_alarm_rate(self, rate: float) -> None:
        """Choose the thresholds again, for another share of false alarms; UserError unless 0 < rate < 1."""
        if not 0 < rate < 1:
            raise UserError(
                f"A false-alarm rate lies between 0 and 1, and {rate:g} does not; 0.01 is one in a hundred."
            )
        for index, name in enumerate(self.class_names):
            rows = self._calibration_rows(index)
            held_out = bool(self.calibration[name]["held_out"])
            scores = self.run.evaluation.tensors("scores")
            self.thresholds[name] = calibrate(scores["train"].numpy()[rows], rate, held_out).threshold
            self.pixel_thresholds[name] = calibrate(scores["peaks"].numpy()[rows], rate, held_out).threshold

    def _calibration_rows(self, index: int) -> npt.NDArray[np.bool_]:
        unseen = self.run.evaluation.tensors("scores")["unseen"].bool().numpy()
        selected = np.array(self.run.evaluation.info["selected"], dtype=bool)
        members = np.array([sample.class_index == index for sample in self.run.data.train])
        chosen = members & selected & unseen
        return np.asarray(chosen if chosen.any() else members & selected)

    def predict(self, images: Sequence[npt.NDArray[np.uint8]], classes: Sequence[str]) -> list[Prediction]:
        """Predictions for RGB images uint8 [H, W, 3] of any size, each of a class of the run."""
        if not images:
            return []
        indices = torch.tensor([self.class_names.index(name) for name in classes])
        scores, smoothed = self._scores(images, indices)
        return [
            Prediction(float(score), self.thresholds[name], values.numpy())
            for score, values, name in zip(scores, smoothed, classes, strict=True)
        ]

    def _scores(self, images: Sequence[npt.NDArray[np.uint8]], classes: Tensor) -> tuple[Tensor, Tensor]:
        pipeline = self._pipeline
        preprocessing = pipeline.backbone.preprocessing
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
