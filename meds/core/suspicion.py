"""The order in which a person should look at training images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def most_suspicious_first(scores: npt.ArrayLike, classes: Sequence[str]) -> list[int]:
    """Positions of the training images, the most suspicious first.

    Scores [n] of different classes have scales of their own. So images are ordered by how many median absolute
    deviations their score lies above the median of their class [n], the measure of the selection's threshold (paper
    eq. 12). Within a class that is the order of the scores; equal images keep theirs.
    """
    values, names = np.asarray(scores, dtype=np.float64), np.asarray(classes)
    above = np.zeros(len(values))
    for name in np.unique(names):
        members = names == name
        distances = values[members] - np.median(values[members])
        spread = np.median(np.abs(distances))
        # Half of a class scoring alike leaves no spread to measure by.
        above[members] = distances / (spread or np.abs(distances).max() or 1.0)
    order: list[int] = np.lexsort((np.arange(len(values)), -values, -above)).tolist()
    return order
