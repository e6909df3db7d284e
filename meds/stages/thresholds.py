"""Which training images set the thresholds: those that a stage selected, and those that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from meds.core.stage import StageContext
from meds.core.store import Artifact
from meds.core.thresholds import Booleans


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
