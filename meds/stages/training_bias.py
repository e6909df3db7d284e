"""How much lower a student scores the images that it was trained on, measured by those that it was not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Booleans = npt.NDArray[np.bool_]

# Of fewer images a median says too little.
FEWEST_IMAGES = 3


def as_if_not_trained_on(
    own: Tensor, known: Tensor | None, trained: Booleans, held_out: Booleans, classes: npt.NDArray[np.int64]
) -> Tensor:
    """A student's scores of training images as it would score new ones, float32 [n].

    A long training reconstructs its own images better than any others, normal or not: after 5,000 iterations on 140
    images they scored a quarter of what normal images did that were held out, so that these looked like defects
    (docs/results.md). The memory, which no training moves, tells which images are alike: in the half of a class that
    it finds plainest, the median score of those held out over that of those trained on is the factor by which the
    latter are raised. It is 1 where it would be less, and where either are fewer than three.

    Args:
        own: the student's scores float32 [n].
        known: the memory's scores float32 [n]; None without a memory, and then nothing is changed.
        trained: which images it was trained on at the end, bool [n].
        held_out: which images it was never trained on, by a choice that does not know their scores, bool [n].
        classes: class index int64 [n].
    """
    if known is None:
        return own
    values, plainness = own.numpy(), known.numpy()
    raised = own.clone()
    for index in np.unique(classes):
        members = classes == index
        plain = members & (plainness <= np.median(plainness[members]))
        new, old = values[plain & held_out], values[plain & trained]
        if min(len(new), len(old)) >= FEWEST_IMAGES and np.median(old) > 0:
            raised[torch.from_numpy(members & trained)] *= max(float(np.median(new) / np.median(old)), 1.0)
    return raised
