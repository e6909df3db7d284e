"""The thresholds of a detector by class, and how they are chosen again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meds.core.calibration import calibrate
from meds.core.errors import UserError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ClassThreshold:
    """One class: thresholds of image and pixel scores, the heatmap's scale, and the scores that they come from.

    `images` and `peaks` [n] are the image scores and the largest pixels of the images that the threshold is set by,
    `held_out` whether these were kept out of training.
    """

    image: float
    pixel: float
    heatmap: tuple[float, float]
    images: Floats
    peaks: Floats
    held_out: bool


class Thresholds:
    """The thresholds of all classes."""

    def __init__(self, classes: Mapping[str, ClassThreshold]) -> None:
        self.classes = dict(classes)
        self.image = {name: row.image for name, row in self.classes.items()}
        self.pixel = {name: row.pixel for name, row in self.classes.items()}

    def set_image(self, value: float) -> None:
        """Hold the images of all classes against one score."""
        self.image = dict.fromkeys(self.image, value)

    def set_false_alarm_rate(self, rate: float) -> None:
        """Choose all thresholds again, for another share of false alarms; UserError unless 0 < rate < 1."""
        if not 0 < rate < 1:
            raise UserError(
                f"A false-alarm rate lies between 0 and 1, and {rate:g} does not; 0.01 is one in a hundred."
            )
        for name, row in self.classes.items():
            self.image[name] = calibrate(row.images, rate, row.held_out).threshold
            self.pixel[name] = calibrate(row.peaks, rate, row.held_out).threshold
