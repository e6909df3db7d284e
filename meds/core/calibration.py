"""Decision thresholds for a wanted false-alarm rate, from images that the student was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from meds.core.contamination_estimate import FEWEST_IMAGES
from meds.core.data import MINIMUM_TRAINING_IMAGES, Sample
from meds.core.seeds import derive_seed

CONFIDENCE = 0.95
_HALF_AN_IMAGE = 0.5


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


def calibrate(
    scores: npt.NDArray[Any], rate: float, held_out: bool, normal: npt.NDArray[Any] | None = None
) -> Calibration:
    """The threshold that normal images exceed with probability `rate`, from the scores [n] of n images.

    `normal` [n], above 0 and at most 1, is how likely each held-out image is to be normal; all are if it is left out.

    For held-out images it is the order statistic k = ceil((n + 1)(1 - rate)), at most n: a new normal image lies
    above it with a probability of Beta(n + 1 - k, k) distribution, whatever the distribution of the scores (Vovk,
    "Conditional validity of inductive conformal predictors", 2012, proposition 2a). With fewer than about 1 / rate
    images the largest score is taken, and the expected rate says what that gives. Images that are less than certainly
    normal count as such fractions in n and in n - k; where fewer than one normal image may lie above, half of one is
    let pass, so that a likely defect does not set the threshold. For images that were trained on, it is their quantile.

    Raises:
        ValueError: there are no scores.
    """
    if not len(scores):
        raise ValueError("a threshold needs at least one score")
    order = np.argsort(scores, kind="stable")
    ordered = np.asarray(scores, dtype=np.float64)[order]
    if not held_out:
        return Calibration(float(np.quantile(ordered, 1 - rate)), rate, len(ordered), False, None, None, None)
    from scipy.stats import beta

    weights = np.ones(len(ordered)) if normal is None else np.asarray(normal, dtype=np.float64)[order]
    count = float(weights.sum())
    above = count - np.cumsum(weights)
    place = int(np.argmax(above <= max(rate * (count + 1) - 1, _HALF_AN_IMAGE) + 1e-9))
    left = max(float(above[place]), 0.0)
    exceeded = beta(left + 1, count - left)
    low, high = exceeded.interval(CONFIDENCE)
    # The largest of all scores bounds the rate from above only.
    largest = left <= _HALF_AN_IMAGE
    low = 0.0 if largest else float(low)
    high = float(exceeded.ppf(CONFIDENCE)) if largest else float(high)
    return Calibration(float(ordered[place]), rate, len(ordered), True, float(exceeded.mean()), low, high)


def held_out(samples: Sequence[Sample], share: float, seed: int) -> list[int]:
    """Positions of the samples that a training leaves out: by class, the share of its images, a seeded choice.

    `share` is 0 or more and below 1. Images of equal content go together. A class of fewer than 30 images holds out
    none, because nothing would be known of them (`estimate_contamination`); of any other as many are left as a training
    needs.
    """
    chosen: list[int] = []
    for index in sorted({sample.class_index for sample in samples}):
        digests = list(dict.fromkeys(sample.digest for sample in samples if sample.class_index == index))
        most = len(digests) - MINIMUM_TRAINING_IMAGES
        count = min(round(share * len(digests)), most) if len(digests) >= FEWEST_IMAGES else 0
        order = np.random.default_rng(derive_seed(seed, "held out", index)).permutation(len(digests))
        out = {digests[i] for i in order[:count]}
        chosen += [i for i, s in enumerate(samples) if s.class_index == index and s.digest in out]
    return sorted(chosen)
