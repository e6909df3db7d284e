"""How well images, pixels and the ranking of training images are told apart: the figures of a run.

All figures are exact: no threshold is sampled and no score is binned.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import fsum
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Counts = npt.NDArray[np.int64]
Metrics = dict[str, float | None]

AUPRO_FPR_LIMIT = 0.3
# Pixels that touch at a corner belong to one region.
EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)
_SIGN = np.int32(-(1 << 31))


def image_metrics(scores: npt.ArrayLike, labels: npt.ArrayLike) -> Metrics:
    """Image-level figures as fractions: `image_auroc`, `image_ap` and `image_f1max`.

    `scores` [n] are floats, higher is more anomalous; `labels` [n] are 0 (normal) or 1 (anomalous).
    All figures are None unless both labels occur. AUROC and average precision are scikit-learn's;
    F1-max is the largest 2PR / (P + R) over all thresholds. ValueError for scores that are not finite,
    for other labels, or for lengths that differ.
    """
    return dict(zip(("image_auroc", "image_ap", "image_f1max"), _binary_figures(scores, labels), strict=True))


def ranking_metrics(scores: npt.ArrayLike, contaminated: npt.ArrayLike) -> Metrics:
    """How early a ranking by descending score shows the contaminated images (MeDS, sec. 5.1).

    `scores` [n] are floats, higher is more suspicious; `contaminated` [n] is True for the images to
    find. `auroc` and `auprc` (average precision) are None unless both kinds occur. `inspection_depth`
    is the smallest fraction of the ranking that contains every contaminated image, where equal scores
    count as ranked before it; None if no image is contaminated. ValueError as in `image_metrics`.
    """
    area, precision, _ = _binary_figures(scores, contaminated)
    values, wanted = np.asarray(scores, dtype=np.float64), np.asarray(contaminated).astype(bool)
    depth = float(np.mean(values >= values[wanted].min())) if wanted.any() else None
    return {"auroc": area, "auprc": precision, "inspection_depth": depth}


def mean_metrics(per_class: Mapping[str, Mapping[str, float | None]]) -> Metrics:
    """The mean of every figure over the classes where it is defined; None where it is in none."""
    defined: dict[str, list[float]] = {}
    for figures in per_class.values():
        for name, value in figures.items():
            defined.setdefault(name, []).extend([] if value is None else [value])
    return {name: fsum(values) / len(values) if values else None for name, values in defined.items()}


def _binary_figures(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[float | None, float | None, float | None]:
    """AUROC, average precision and F1-max; None where only one label occurs."""
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if values.ndim != 1 or values.shape != truth.shape:
        raise ValueError(f"Scores {values.shape} and labels {truth.shape} must be two lists of one length.")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("Labels must be 0 (normal) or 1 (anomalous).")
    _require_finite(values)
    truth = truth.astype(bool)
    if truth.all() or not truth.any():
        return None, None, None
    # scikit-learn takes a second to import, which commands that compute nothing should not pay.
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

    precision, recall, _ = precision_recall_curve(truth, values)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    return float(roc_auc_score(truth, values)), float(average_precision_score(truth, values)), float(f1.max())


def _require_finite(values: Floats) -> None:
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise ValueError(f"{bad} of {values.size} scores are not finite (NaN or infinity); no metric can be computed.")


def pixel_metrics(
    maps: npt.ArrayLike, masks: npt.ArrayLike, fpr_limit: float = AUPRO_FPR_LIMIT, threads: int = 1
) -> Metrics:
    """Pixel-level figures as fractions: `pixel_auroc`, `pixel_ap`, `pixel_f1max` and `pixel_aupro`.

    `maps` [n, H, W] are float32 (float64 is kept, others become float32), higher is more anomalous;
    `masks` [n, H, W] are bool, True on a defect. All figures are None unless both normal and defective
    pixels occur. AUROC counts ties as one half, average precision is scikit-learn's, F1-max is the
    largest 2PR / (P + R) over all thresholds.

    AUPRO is the area under the per-region overlap (the mean share of an 8-connected region that is
    found, over all regions of all images) against the share of normal pixels found by mistake, from
    (0, 0) to `fpr_limit` (in (0, 1]), divided by `fpr_limit` (Bergmann et al., MVTec AD, 2021). The curve
    has one point for each distinct score, joined by straight lines. The figures do not depend on `threads`.

    ValueError for scores that are not finite, for shapes that differ, or for a limit out of range.
    """
    values, defective = np.asarray(maps), np.asarray(masks).astype(bool, copy=False)
    if values.dtype != np.float64:
        values = values.astype(np.float32, copy=False)
    if values.ndim != 3 or values.shape != defective.shape:
        raise ValueError(f"Maps {values.shape} and masks {defective.shape} must both be [n, H, W] and equal.")
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"The limit of the false-positive rate must be in (0, 1], not {fpr_limit}.")
    _require_finite(values)
    if defective.all() or not defective.any():
        return dict.fromkeys(("pixel_auroc", "pixel_ap", "pixel_f1max", "pixel_aupro"))
    curve = _curve(values, defective, threads)
    return {
        "pixel_auroc": curve.auroc(),
        "pixel_ap": curve.average_precision(),
        "pixel_f1max": curve.f1max(),
        "pixel_aupro": curve.aupro(fpr_limit),
    }


@dataclass(frozen=True)
class _Curve:
    """Counts at the distinct scores of defective pixels, in descending order, each array [m].

    Between two of these scores only normal pixels are passed. There precision falls and the overlap
    stands still, so these points are all that the four figures need.
    """

    normals: int
    found: Counts
    """Defective pixels at or above the score."""
    normals_above: Counts
    normals_at_or_above: Counts
    overlap: npt.NDArray[np.float64]
    """Mean share of a region at or above the score."""

    def auroc(self) -> float:
        """Share of pairs (defective, normal) in the right order, ties as one half."""
        count = np.diff(self.found, prepend=0)
        wrong_twice = int(np.dot(count, self.normals_above + self.normals_at_or_above))
        return 1 - wrong_twice / (2 * int(self.found[-1]) * self.normals)

    def average_precision(self) -> float:
        """Sum of precision x increase of recall."""
        precision = self.found / (self.found + self.normals_at_or_above)
        return float(np.dot(precision, np.diff(self.found, prepend=0)) / self.found[-1])

    def f1max(self) -> float:
        """Largest 2PR / (P + R); a threshold between two of the scores has less precision, no more recall."""
        return float(np.max(2 * self.found / (self.found + self.normals_at_or_above + self.found[-1])))

    def aupro(self, limit: float) -> float:
        """Area under overlap against false-positive rate, from 0 to the limit, divided by the limit."""
        # Each score gives two corners: after the normal pixels above it, and after the pixels equal to it.
        rate = np.stack([self.normals_above, self.normals_at_or_above], axis=1).ravel() / self.normals
        overlap = np.repeat(np.concatenate([[0.0], self.overlap]), 2)[1:-1]
        rate = np.concatenate([[0.0], rate, [1.0]])
        overlap = np.concatenate([[0.0], overlap, overlap[-1:]])
        cut = int(np.searchsorted(rate, limit, side="left"))
        slope = (overlap[cut] - overlap[cut - 1]) / (rate[cut] - rate[cut - 1])
        overlap[cut] = overlap[cut - 1] + slope * (limit - rate[cut - 1])
        rate[cut] = limit
        heights = (overlap[:cut] + overlap[1 : cut + 1]) / 2
        return float(np.dot(heights, np.diff(rate[: cut + 1])) / limit)


def _curve(values: Floats, defective: npt.NDArray[np.bool_], threads: int) -> _Curve:
    with ThreadPoolExecutor(threads) as pool:
        # NumPy sorts on one core; normal pixels are counted, not listed, so that parts of them need no common order.
        parts = [pool.submit(np.sort, part) for part in np.array_split(values[~defective], threads)]
        scores, added = _descending(values[defective], *_overlap_weights(defective))
        last_of_score = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)
        wanted = scores[last_of_score][::-1]
        positions = [pool.submit(_positions, part.result(), wanted) for part in parts]
        below, up_to = np.sum([position.result() for position in positions], axis=0)
    normals = values.size - len(scores)
    return _Curve(
        normals,
        (last_of_score + 1).astype(np.int64, copy=False),
        (normals - up_to)[::-1],
        (normals - below)[::-1],
        np.cumsum(added)[last_of_score],
    )


def _descending(
    scores: Floats, regions: npt.NDArray[np.uint32], weights: npt.NDArray[np.float64]
) -> tuple[Floats, npt.NDArray[np.float64]]:
    """Scores of defective pixels in descending order, and the weights of their regions in the same order."""
    if scores.dtype != np.float32:
        order = np.argsort(scores)[::-1]
        return scores[order], weights[regions[order]]
    # Numbers that hold a score above its region are sorted twice as fast as the order of the scores is found. The bits
    # of a float are ordered as an unsigned integer once a negative one's are turned over and a positive one's sign set.
    both = np.empty(len(scores), dtype="<u8")
    halves = both.view("<u4").reshape(-1, 2)
    bits = scores.view(np.int32)
    halves[:, 1] = (bits ^ (bits >> 31 | _SIGN)).view(np.uint32)
    halves[:, 0] = regions
    both.sort()
    bits = halves[::-1, 1].astype(np.uint32).view(np.int32)
    bits ^= ~(bits >> 31) | _SIGN
    return bits.view(np.float32), weights[halves[::-1, 0]]


def _positions(ordered: Floats, wanted: Floats) -> tuple[Counts, Counts]:
    """How many of the `ordered` values are below, and how many at or below, each `wanted` ascending value."""
    below = np.searchsorted(ordered, wanted, side="left").astype(np.int64, copy=False)
    up_to = below.copy()
    if len(ordered):
        # Equal values are rare in real maps, so the second search is made only for those.
        tied = np.flatnonzero(ordered[np.minimum(below, len(ordered) - 1)] == wanted)
        up_to[tied] = np.searchsorted(ordered, wanted[tied], side="right")
    return below, up_to


def _overlap_weights(defective: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64]]:
    """Regions and what a pixel of each adds to the mean overlap: 1 / (regions x size of the region).

    uint32 [defective pixels], in the order of `values[defective]`, and float64 [regions].
    """
    from scipy import ndimage

    found: list[npt.NDArray[np.uint32]] = []
    sizes: list[npt.NDArray[np.int64]] = []
    regions = 0
    for mask in defective:
        if mask.any():
            labels, count = ndimage.label(mask, structure=EIGHT_CONNECTED)
            own = labels[mask]
            sizes.append(np.bincount(own, minlength=count + 1)[1:])
            found.append((own + (regions - 1)).astype(np.uint32))
            regions += count
    return np.concatenate(found), 1 / (np.concatenate(sizes) * regions)
