"""Thresholds and heatmap scales of a finished student, from the training images that it judges to be normal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from meds.core.calibration import Calibration, calibrate
from meds.core.stage import StageContext
from meds.core.store import Artifact

Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TrainingScores:
    """Of every training image, each [n]: image score, largest and median value of its smoothed map, and class index."""

    images: npt.NDArray[Any]
    peaks: npt.NDArray[Any]
    middles: npt.NDArray[Any]
    classes: npt.NDArray[Any]


def last_selection(source: Artifact, count: int) -> Booleans:
    """Which training images the student selected at the end: bool [n]; all where nothing selects."""
    if "selection.safetensors" not in source.manifest["files"]:
        return np.ones(count, dtype=bool)
    histories = source.tensors("selection").values()
    return np.any([history[-1].bool().numpy() for history in histories], axis=0)  # type: ignore[no-any-return]


def write_held_out(context: StageContext, positions: Sequence[int]) -> None:
    """Note which training images a stage did not train on: `holdout.safetensors`, `images` uint8 [n]."""
    images = torch.zeros(len(context.data.train), dtype=torch.uint8)
    images[list(positions)] = 1
    context.output.write_tensors("holdout", {"images": images})


def not_trained_on(source: Artifact, count: int, scored_without_themselves: bool) -> Booleans:
    """Which training images tell of new ones: held out, or scored by a memory that does not hold them; bool [n]."""
    if scored_without_themselves:
        return np.ones(count, dtype=bool)
    if "holdout.safetensors" not in source.manifest["files"]:
        return np.zeros(count, dtype=bool)
    return np.asarray(source.tensors("holdout")["images"].bool().numpy())


def class_thresholds(
    scores: TrainingScores, index: int, selected: Booleans, unseen: Booleans, rate: float
) -> dict[str, Any]:
    """The calibration of one class as plain data.

    `Calibration`'s fields, `pixel_threshold` (the same for the largest value of a map, so that a normal image has a
    pixel above it as rarely as it has a score above the threshold) and `heatmap`: the two ends of the colour scale,
    with the pixel threshold in its middle.
    """
    members = scores.classes == index
    usable = members & selected & unseen
    held_out = bool(usable.any())
    chosen = usable if held_out else members & selected
    image: Calibration = calibrate(scores.images[chosen], rate, held_out)
    pixel = calibrate(scores.peaks[chosen], rate, held_out).threshold
    low = min(float(np.median(scores.middles[chosen])), pixel)
    return {**image.as_dict(), "pixel_threshold": pixel, "heatmap": [low, low + 2 * max(pixel - low, 1e-12)]}
