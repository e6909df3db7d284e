"""Estimates how many training images are defects, from the distribution of their suspicion scores alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from meds.core.seeds import derive_seed

CONFIDENCE = 0.9
FEWEST_IMAGES = 30
REPLICATES = 200
BINS = 512
# The flank of the bulk is measured where the density has fallen to this share of its top. Lower than that, a second
# group of normal images or the defects themselves widen it; higher, too few images decide.
FLANK = 0.6

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Expected:
    """An expected number of defects, and the interval that holds it with 90 % confidence."""

    count: float
    low: float
    high: float


@dataclass(frozen=True)
class ContaminationEstimate:
    """What the scores say about each of n training images.

    `probabilities` float64 [n], 0 to 1: how likely it is that the image is a defect. `draws` bool [200, n]: sets of
    defects that the scores allow. `known` bool [n]: False for images of classes with fewer than 30 images, about
    which nothing is said (their probability is 0).
    """

    probabilities: Floats
    draws: Booleans
    known: Booleans

    def expected(self, among: Booleans | None = None) -> Expected | None:
        """The number of defects among some images, bool [n] (all by default); None if nothing is known of any.

        After some images have been looked at, ask for those that are left: what was found replaces the estimate.
        """
        among = np.ones(len(self.known), dtype=bool) if among is None else among
        if among.any() and not self.known[among].any():
            return None
        count = float(self.probabilities[among].sum())
        ends = np.quantile(self.draws[:, among].sum(axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return Expected(count, min(count, float(ends[0])), max(count, float(ends[1])))


def estimate_contamination(scores: npt.ArrayLike, classes: npt.ArrayLike, seed: int = 0) -> ContaminationEstimate:
    """Split the scores [n] (larger is more suspicious) of each class, int [n], into normal images and an excess.

    On a log scale the normal images are taken to be a bulk with a Gaussian upper tail, as wide as the wider of the
    bulk's two flanks near its top. An image is a defect with the probability by which the density of the scores
    exceeds that tail, made monotone in the score: an empirical null by central matching (Efron, "Large-scale
    simultaneous hypothesis testing", 2004, section 4) and the local false discovery rate over it. Mirroring the whole
    left half instead finds far too little where some normal images are much plainer than the rest. The interval is
    that of a bootstrap of the scores in which each replicate draws which images are defects.

    What scores alone cannot tell: defects that score like normal images are not counted, and normal images that stand
    apart as a group are. Scores that are not all positive are used as they are, without the logarithm.
    """
    values, labels = np.asarray(scores, dtype=np.float64), np.asarray(classes)
    probabilities = np.zeros(len(values))
    draws = np.zeros((REPLICATES, len(values)), dtype=bool)
    known = np.zeros(len(values), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < FEWEST_IMAGES:
            continue
        random = np.random.default_rng(derive_seed(seed, "contamination", int(label)))
        known[members] = True
        probabilities[members], draws[:, members] = _class_estimate(values[members], random)
    return ContaminationEstimate(probabilities, draws, known)


def _class_estimate(scores: Floats, random: np.random.Generator) -> tuple[Floats, Booleans]:
    """Probabilities [n] and draws [200, n] of the images of one class."""
    values = np.log(scores) if (scores > 0).all() else scores
    bandwidth = _bandwidth(values)
    if bandwidth <= 0:
        return np.zeros(len(values)), np.zeros((REPLICATES, len(values)), dtype=bool)
    # Clipped, because a far outlier would make the bins coarser than the bulk.
    reach, middle = 60 * bandwidth, float(np.median(values))
    values = np.clip(values, middle - reach, middle + reach)
    margin = 5 * bandwidth
    counts, edges = np.histogram(values, BINS, (values.min() - margin, values.max() + margin))
    centres, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]

    def at_scores(replicate: npt.NDArray[Any]) -> Floats:
        return np.asarray(np.interp(values, centres, _defect_share(replicate, bandwidth / width)))

    draws = [
        random.random(len(values)) < at_scores(replicate)
        for replicate in random.multinomial(len(values), counts / len(values), size=REPLICATES)
    ]
    return at_scores(counts), np.array(draws)


def _bandwidth(values: Floats) -> float:
    """Silverman's rule ("Density estimation", 1986, equation 3.31); 0 where all values are equal."""
    quartiles = np.quantile(values, [0.25, 0.75])
    spreads = [spread for spread in (values.std(), (quartiles[1] - quartiles[0]) / 1.349) if spread > 1e-12]
    return float(0.9 * min(spreads, default=0.0) * len(values) ** -0.2)


def _defect_share(counts: npt.NDArray[Any], bandwidth: float) -> Floats:
    """The share of defects in each bin, float64 [m], from the numbers of images [m]; the bandwidth is in bins."""
    from scipy.ndimage import gaussian_filter1d
    from scipy.optimize import isotonic_regression

    density = gaussian_filter1d(counts.astype(np.float64), bandwidth, mode="constant", truncate=5.0)
    peak = int(density.argmax())
    places = np.arange(len(density)) - peak
    bulk = density[peak] * np.exp(-0.5 * (places / max(_flanks(density, peak))) ** 2)
    excess = np.clip(1 - bulk / np.maximum(density, 1e-12), 0, 1)
    excess[:peak] = 0
    return np.asarray(isotonic_regression(excess, weights=density + 1e-12).x)


def _flanks(density: Floats, peak: int) -> Iterator[float]:
    """The standard deviations, in bins, of the Gaussians that fall like the density left and right of its peak."""
    limit = FLANK * density[peak]
    for side in (density[peak::-1], density[peak:]):
        yield int((side < limit).argmax()) / float(np.sqrt(-2 * np.log(FLANK)))
