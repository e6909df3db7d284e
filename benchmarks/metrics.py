"""Times the seven figures of an evaluation against anomalib's own, and against the common AUPRO loop over thresholds.

    python benchmarks/metrics.py [--images 83] [--size 448] [--half] [--json FILE]

All on the same maps and masks. The exact values come from scikit-learn and, for AUPRO, from one sort of all pixels in
double precision, written as plainly as can be. The loop takes 200 thresholds and, as it is copied from publication to
publication, finds the regions of all masks again at every threshold; that part is the same every time, so it is timed
once and counted 200 times. The thrifty loop finds them once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from surroundings import write_result

from meds.core.metrics import image_metrics, pixel_metrics

Maps = npt.NDArray[np.float32]
Masks = npt.NDArray[np.bool_]
LIMIT = 0.3


def make_case(images: int, size: int, half: bool = False) -> tuple[Maps, Masks]:
    """Smooth maps float32 and masks bool [images, size, size]; three of four images have 1 to 3 defects.

    With `half` the upper half of every image is one defect.
    """
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size] / size
    maps = np.empty((images, size, size), np.float32)
    masks = np.zeros((images, size, size), bool)
    for index in range(images):
        noise = generator.standard_normal((size, size), dtype=np.float32)
        maps[index] = ndimage.gaussian_filter(noise, 4) * 2
        for _ in range(generator.integers(1, 4) if index % 4 else 0):
            y, x = generator.uniform(0.1, 0.9, 2)
            height, width = generator.uniform(0.03, 0.15, 2)
            distance = ((rows - y) / height) ** 2 + ((columns - x) / width) ** 2
            masks[index] |= distance < 1
            maps[index] += np.exp(-distance).astype(np.float32) * 0.5
    if half:
        masks[:, : size // 2], masks[:, size // 2 :] = True, False
    return maps, masks


def regions_of(masks: Masks) -> tuple[npt.NDArray[np.int64], int]:
    """The number of the region of every pixel, 0 for none, int64 [n, H, W], and how many regions there are."""
    numbers, count = np.zeros(masks.shape, np.int64), 0
    for index, mask in enumerate(masks):
        found, more = ndimage.label(mask, structure=np.ones((3, 3)))
        numbers[index] = np.where(found > 0, found + count, 0)
        count += more
    return numbers, count


def loop_over_thresholds(maps: Maps, masks: Masks, steps: int = 200) -> float:
    """AUPRO as most published code computes it: for every threshold, the overlap of every region, found once here."""
    numbers, count = regions_of(masks)
    pixels = np.split(np.argsort(numbers, axis=None, kind="stable"), np.cumsum(np.bincount(numbers.ravel())))
    regions = pixels[1 : count + 1]
    normal, normals = ~masks, np.count_nonzero(~masks)
    rates, overlaps = [], []
    for threshold in np.linspace(maps.min(), maps.max(), steps, endpoint=False, dtype=np.float32):
        found = maps > threshold
        overlaps.append(np.mean([found.ravel()[region].mean() for region in regions]))
        rates.append(np.count_nonzero(found & normal) / normals)
    rate, overlap = np.array(rates), np.array(overlaps)
    kept = rate < LIMIT
    rate, overlap = rate[kept][::-1], overlap[kept][::-1]
    return float(np.dot((overlap[1:] + overlap[:-1]) / 2, np.diff(rate)) / rate[-1])


def pixels_of_regions(masks: Masks) -> list[list[tuple[npt.NDArray[np.int64], ...]]]:
    """The pixels of every region of every mask, as the common loop finds them at each of its thresholds."""
    found = []
    for mask in masks:
        numbers, count = ndimage.label(mask, structure=np.ones((3, 3)))
        boxes = ndimage.find_objects(numbers)
        found.append([np.nonzero(numbers[box] == number + 1) for number, box in zip(range(count), boxes, strict=True)])
    return found


def exact_values(maps: Maps, masks: Masks) -> dict[str, float]:
    """The four figures of the pixels, slowly and in double precision."""
    scores, truth = maps.ravel(), masks.ravel()
    precision, recall, _ = precision_recall_curve(truth, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    numbers, count = regions_of(masks)
    share = np.concatenate([[0.0], 1 / np.bincount(numbers.ravel())[1:] / count])[numbers.ravel()]
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    rate = np.concatenate([[0.0], (np.cumsum(~truth[order]) / np.count_nonzero(~truth))[last]])
    overlap = np.concatenate([[0.0], np.cumsum(share[order])[last]])
    ends = np.append(rate[rate < LIMIT], LIMIT)
    return {
        "pixel_auroc": float(roc_auc_score(truth, scores)),
        "pixel_ap": float(average_precision_score(truth, scores)),
        "pixel_f1max": float(f1.max()),
        "pixel_aupro": float(np.trapezoid(np.append(overlap[rate < LIMIT], np.interp(LIMIT, rate, overlap)), ends))
        / LIMIT,
    }


def anomalib_figures(maps: Maps, masks: Masks, scores: Maps, labels: Masks) -> dict[str, Callable[[], float]]:
    """anomalib's own metrics, each ready to be computed."""
    from anomalib.metrics.aupr import _AUPR
    from anomalib.metrics.aupro import _AUPRO
    from anomalib.metrics.auroc import _AUROC
    from anomalib.metrics.f1_score import _F1Max

    def ready(metric: Any, values: Maps, truth: Masks) -> Callable[[], float]:
        def compute() -> float:
            metric.update(torch.from_numpy(values), torch.from_numpy(truth).int())
            return float(metric.compute())

        return compute

    # AUPRO first: the others may change what they were given, a copy of which they also keep.
    work = {"pixel_aupro": ready(_AUPRO(fpr_limit=LIMIT), maps, masks)}
    for name, metric in (("auroc", _AUROC), ("ap", _AUPR), ("f1max", _F1Max)):
        work[f"pixel_{name}"] = ready(metric(), maps.ravel(), masks.ravel())
        work[f"image_{name}"] = ready(metric(), scores, labels)
    return work


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """(wall seconds, result)."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=83)
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--half", action="store_true", help="half of all pixels are defective")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    maps, masks = make_case(given.images, given.size, given.half)
    scores, labels = maps.max(axis=(1, 2)), masks.any(axis=(1, 2))
    labels[::4] = False  # also where every image holds a defect, so that the images' figures are defined
    threads = torch.get_num_threads()

    def ours() -> dict[str, float | None]:
        return image_metrics(scores, labels) | pixel_metrics(maps, masks, LIMIT, threads)

    seconds, figures = min((timed(ours) for _ in range(3)), key=lambda result: float(result[0]))
    exact_seconds, exact = timed(lambda: exact_values(maps, masks))
    thrifty_seconds, loop = timed(lambda: loop_over_thresholds(maps, masks))
    loop_seconds = thrifty_seconds + 200 * timed(lambda: pixels_of_regions(masks))[0]
    small = (maps[:8, :32, :32], masks[:8, :32, :32] | (np.arange(32) < 9), scores[:8], np.arange(8) < 4)
    for work in anomalib_figures(*small).values():  # what it loads and compiles at its first call is not timed
        work()
    theirs = {name: timed(work) for name, work in anomalib_figures(maps, masks, scores, labels).items()}
    peer_seconds = sum(taken for taken, _ in theirs.values())
    error = max(abs(figures[name] - value) for name, value in exact.items())
    print(f"{given.images} maps of {given.size}x{given.size}, {masks.mean():.1%} of the pixels defective")
    print(f"{'':34}{'seconds':>9}{'ratio':>8}  largest difference from the exact value")
    gap = max(abs(theirs[name][1] - value) for name, value in exact.items())
    print(f"{'meds, seven figures':34}{seconds:9.2f}{1:8.1f}  {error:.1e}")
    print(f"{'anomalib, seven figures':34}{peer_seconds:9.2f}{peer_seconds / seconds:8.1f}  {gap:.1e}")
    gap = abs(loop - exact["pixel_aupro"])
    print(f"{'loop over 200 thresholds, AUPRO':34}{loop_seconds:9.2f}{loop_seconds / seconds:8.1f}  {gap:.1e}")
    print(f"{'thrifty loop, AUPRO':34}{thrifty_seconds:9.2f}{thrifty_seconds / seconds:8.1f}  {gap:.1e}")
    print(f"{'scikit-learn and one plain sort':34}{exact_seconds:9.2f}{exact_seconds / seconds:8.1f}")
    result = {
        "images": given.images,
        "size": given.size,
        "defective": float(masks.mean()),
        "meds_seconds": seconds,
        "anomalib_seconds": {name: taken for name, (taken, _) in theirs.items()},
        "loop_seconds": loop_seconds,
        "ratio_anomalib": peer_seconds / seconds,
        "ratio_loop": loop_seconds / seconds,
        "ratio_thrifty_loop": thrifty_seconds / seconds,
        "figures": figures,
        "exact": exact,
        "anomalib": {name: value for name, (_, value) in theirs.items()},
        "loop": loop,
        "largest_difference": error,
    }
    write_result(given.json, result, "anomalib", "scikit-learn", "numpy")


if __name__ == "__main__":
    main()
