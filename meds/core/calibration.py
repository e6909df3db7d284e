"""Decision thresholds for a wanted false-alarm rate, from images that the student was not trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from meds.core.data import Sample
from meds.core.seeds import derive_seed

CONFIDENCE = 0.95
FEWEST_IMAGES = 20


@dataclass(frozen=True)
class Calibration:
    """A threshold and what is known of its false-alarm rate; rates are fractions of normal images.

    `expected` is the mean false-alarm rate, `low` and `high` bound it with 95 % confidence; all three are None where
    the images were trained on (`held_out` False), because nothing is known then. `images` is their number.
    """

    threshold: float
    wanted: float
    images: int
    held_out: bool
    expected: float | None
    low: float | None
    high: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def calibrate(scores: npt.NDArray[Any], rate: float, held_out: bool) -> Calibration:
    """The threshold that normal images exceed with probability `rate`, from the scores [n] of n normal images.

    For held-out images it is the order statistic k = ceil((n + 1)(1 - rate)), at most n: a new normal image lies
    above it with a probability of Beta(n + 1 - k, k) distribution, whatever the distribution of the scores (Vovk,
    "Conditional validity of inductive conformal predictors", 2012, proposition 2a). With fewer than about 1 / rate
    images the largest score is taken, and the expected rate says what that gives. For images that were trained on,
    it is their quantile.

    Raises:
        ValueError: there are no scores.
    """
    if not len(scores):
        raise ValueError("a threshold needs at least one score")
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    if not held_out:
        return Calibration(float(np.quantile(ordered, 1 - rate)), rate, len(ordered), False, None, None, None)
    from scipy.stats import beta

    count = len(ordered)
    place = min(count, math.ceil((count + 1) * (1 - rate) - 1e-9))
    above = beta(count + 1 - place, place)
    low, high = above.interval(CONFIDENCE)
    # The largest of all scores bounds the rate from above only.
    low = 0.0 if place == count else float(low)
    high = float(above.ppf(CONFIDENCE)) if place == count else float(high)
    return Calibration(float(ordered[place - 1]), rate, count, True, float(above.mean()), low, high)


def held_out(samples: Sequence[Sample], share: float, seed: int) -> list[int]:
    """Positions of the samples that a training leaves out: by class, the share of its images, a seeded choice.

    Images of equal content go together. A class of fewer than 20 images needs them all and holds out none.
    """
    chosen: list[int] = []
    for index in sorted({sample.class_index for sample in samples}):
        digests = list(dict.fromkeys(sample.digest for sample in samples if sample.class_index == index))
        count = round(share * len(digests)) if len(digests) >= FEWEST_IMAGES else 0
        order = np.random.default_rng(derive_seed(seed, "held out", index)).permutation(len(digests))
        out = {digests[i] for i in order[:count]}
        chosen += [i for i, s in enumerate(samples) if s.class_index == index and s.digest in out]
    return sorted(chosen)
