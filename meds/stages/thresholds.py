"""Which training images set the thresholds: those that are likely to be normal and were not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from meds.core.contamination_estimate import estimate_contamination
from meds.core.data import Sample, class_indices
from meds.core.stage import StageContext
from meds.core.store import Artifact
from meds.core.thresholds import Booleans, Floats


def selects(source: Artifact) -> bool:
    """Whether the stage that made the artifact selected what it trained on."""
    return "selection.safetensors" in source.manifest["files"]


def last_selection(source: Artifact, count: int) -> Booleans:
    """Which training images the student selected at the end: bool [n]; all where nothing selects."""
    if not selects(source):
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


def likely_normal(samples: Sequence[Sample], selected: Booleans, scores: Floats | None) -> Floats:
    """How likely each training image is to be normal, float64 [n] from 0 to 1.

    By `scores` [n], how suspicious memory and student find it (`estimate_contamination`), and 1 where a person has said
    so. By whether it was selected where there are no such scores, or too few images of its class to tell from them.

    A selection alone would not do: it leaves out a part of the normal images as well, those that score highest, so that
    a threshold from what it holds is exceeded by many more of them than it promises.
    """
    normal = selected.astype(np.float64)
    if scores is not None:
        estimate = estimate_contamination(scores, class_indices(samples))
        normal = np.where(estimate.known, 1 - estimate.probabilities, normal)
    normal[[sample.confirmed for sample in samples]] = 1.0
    return normal
