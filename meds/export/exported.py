"""Opens an exported file, as `meds predict` uses it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from meds.core.images import read_rgb
from meds.core.predict import Image, Prediction
from meds.export.formats import Session, read
from meds.export.metadata import Metadata, parse


class ExportedPredictor:
    """The detector in a file: images of one class, one at a time."""

    def __init__(self, metadata: Metadata, session: Session) -> None:
        self._session = session
        self.class_names: tuple[str, ...] = (metadata.class_name,)
        self.thresholds = metadata.thresholds
        self.preprocessing = metadata.preprocessing
        self._bits = metadata.bits

    def read(self, path: Path) -> Image:
        """An image file, RGB uint8 [H, W, 3]; UnreadableImageError if it cannot be read."""
        return read_rgb(path, self._bits)

    def predict(self, images: Sequence[Image], classes: Sequence[str]) -> list[Prediction]:
        """Predictions for RGB images uint8 [H, W, 3] of any size."""
        found = []
        for image, name in zip(images, classes, strict=True):
            score, values = self._session(np.ascontiguousarray(image)[None])
            found.append(Prediction(float(score[0]), self.thresholds.image[name], np.asarray(values[0])))
        return found


def open_exported(path: Path) -> ExportedPredictor:
    """The detector of a file that `meds export` wrote; UserError if it is none."""
    text, session = read(path)
    return ExportedPredictor(parse(text, str(path)), session)
