"""The thresholds of a detector by class: how they are chosen, and chosen again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from meds.core.calibration import Calibration, calibrate
from meds.core.errors import UserError

Booleans = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
_ROUNDING = 1e-5


def lies_above(score: float, threshold: float) -> bool:
    """Whether an image is called anomalous: its score lies above the threshold by more than rounding.

    A threshold is the score of an image, which another number of images in a batch moves in its last digits. What is
    no number is never called normal.
    """
    return not score - threshold <= _ROUNDING * abs(threshold)


@dataclass(frozen=True)
class TrainingScores:
    """Of training images, each [n]: image score, largest and median value of its smoothed map, and class index."""

    images: npt.NDArray[Any]
    peaks: npt.NDArray[Any]
    middles: npt.NDArray[Any]
    classes: npt.NDArray[Any]


@dataclass(frozen=True)
class ClassThreshold:
    """One class: thresholds of image and pixel scores, the heatmap's scale, and the scores that they come from.

    `images` and `peaks` [n] are the image scores and the largest pixels of the images that the threshold is set by,
    `normal` [n] how likely each is to be normal, `held_out` whether these were kept out of training.
    """

    image: float
    pixel: float
    heatmap: tuple[float, float]
    images: Floats
    peaks: Floats
    normal: Floats
    held_out: bool


class Thresholds:
    """The thresholds of all classes."""

    def __init__(self, classes: Mapping[str, ClassThreshold]) -> None:
        self.classes = dict(classes)
        self.image = {name: row.image for name, row in self.classes.items()}
        self.pixel = {name: row.pixel for name, row in self.classes.items()}

    def set_image(self, value: float) -> None:
        """Hold the images of all classes against one score; UserError unless it is a finite number."""
        if not math.isfinite(value):
            raise UserError(f"A threshold is a score, and {value} is none; give a finite number.")
        self.image = dict.fromkeys(self.image, value)

    def set_false_alarm_rate(self, rate: float) -> None:
        """Choose all thresholds again, for another share of false alarms; UserError unless 0 < rate < 1."""
        if not 0 < rate < 1:
            raise UserError(
                f"A false-alarm rate lies between 0 and 1, and {rate:g} does not; 0.01 is one in a hundred."
            )
        for name, row in self.classes.items():
            self.image[name] = calibrate(row.images, rate, row.held_out, row.normal).threshold
            self.pixel[name] = calibrate(row.peaks, rate, row.held_out, row.normal).threshold


def setting_the_threshold(members: Booleans, selected: Booleans, unseen: Booleans, normal: Floats) -> Booleans:
    """Which of a class's images set its thresholds, all [n]: those not trained on that may be normal.

    Where there are none, those that were selected, which then have been trained on.
    """
    held_out = members & unseen & (normal > 0)
    return held_out if held_out.any() else members & selected


def class_thresholds(
    scores: TrainingScores, index: int, selected: Booleans, unseen: Booleans, normal: Floats, rate: float
) -> dict[str, Any]:
    """The calibration of one class as plain data; `normal` [n] is how likely each image is to be normal, 0 to 1.

    `Calibration`'s fields, `pixel_threshold` (the same for the largest value of a map, so that a normal image has a
    pixel above it as rarely as it has a score above the threshold) and `heatmap`: the two ends of the colour scale,
    with the pixel threshold in its middle.

    Raises:
        ValueError: `setting_the_threshold` finds no image of the class.
    """
    chosen = setting_the_threshold(scores.classes == index, selected, unseen, normal)
    held_out, weights = bool(unseen[chosen].all()), normal[chosen]
    image: Calibration = calibrate(scores.images[chosen], rate, held_out, weights)
    pixel = calibrate(scores.peaks[chosen], rate, held_out, weights).threshold
    likely = weights >= min(0.5, weights.max())
    low = min(float(np.median(scores.middles[chosen][likely])), pixel)
    return {**image.as_dict(), "pixel_threshold": pixel, "heatmap": [low, low + 2 * max(pixel - low, 1e-12)]}
