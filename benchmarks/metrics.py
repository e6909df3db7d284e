"""Times the exact pixel metrics against the common AUPRO loop over 200 thresholds, on the same data.

Run: python benchmarks/metrics.py [--images 83] [--size 448]
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from meds.core.metrics import pixel_metrics

Maps = npt.NDArray[np.float32]
Masks = npt.NDArray[np.bool_]


def make_case(images: int, size: int) -> tuple[Maps, Masks]:
    """Smooth maps float32 and masks bool [images, size, size]; three of four images have 1 to 3 defects."""
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
    return maps, masks


def loop_over_thresholds(maps: Maps, masks: Masks, limit: float = 0.3, steps: int = 200) -> float:
    """AUPRO as most published code computes it: for every threshold, the overlap of every region.

    The regions are found once, not once a threshold, which is thriftier than most.
    """
    regions = [
        (index, ndimage.label(mask, structure=np.ones((3, 3)))[0]) for index, mask in enumerate(masks) if mask.any()
    ]
    cells = [
        (index, np.nonzero(labels == number)) for index, labels in regions for number in range(1, labels.max() + 1)
    ]
    normal, normals = ~masks, np.count_nonzero(~masks)
    rates, overlaps = [], []
    for threshold in np.linspace(maps.min(), maps.max(), steps, endpoint=False, dtype=np.float32):
        found = maps > threshold
        overlaps.append(np.mean([found[index][cell].mean() for index, cell in cells]))
        rates.append(np.count_nonzero(found & normal) / normals)
    rate, overlap = np.array(rates), np.array(overlaps)
    kept = rate < limit
    rate, overlap = rate[kept][::-1], overlap[kept][::-1]
    return float(np.dot((overlap[1:] + overlap[:-1]) / 2, np.diff(rate)) / rate[-1])


def with_scikit_learn(maps: Maps, masks: Masks) -> tuple[float, float, float]:
    """Pixel AUROC, average precision and F1-max through scikit-learn."""
    scores, truth = maps.ravel(), masks.ravel()
    precision, recall, _ = precision_recall_curve(truth, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(roc_auc_score(truth, scores)), float(average_precision_score(truth, scores)), float(f1.max())


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """(wall seconds, result)."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def peak_mebibytes() -> float:
    """Largest memory of this process so far (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=83)
    parser.add_argument("--size", type=int, default=448)
    options = parser.parse_args()
    maps, masks = make_case(options.images, options.size)
    print(f"{options.images} maps of {options.size}x{options.size}, {masks.mean():.1%} of the pixels defective")
    before = peak_mebibytes()
    exact_seconds, exact = timed(lambda: pixel_metrics(maps, masks))
    memory = peak_mebibytes() - before
    loop_seconds, loop = timed(lambda: loop_over_thresholds(maps, masks))
    other_seconds, others = timed(lambda: with_scikit_learn(maps, masks))
    assert isinstance(exact, dict)
    print(f"{'what':<48}{'seconds':>9}  result")
    figures = ", ".join(f"{name.removeprefix('pixel_')} {value:.6f}" for name, value in exact.items())
    print(f"{'meds: all four figures, exact':<48}{exact_seconds:>9.2f}  {figures}")
    print(f"{'loop over 200 thresholds: AUPRO only':<48}{loop_seconds:>9.2f}  aupro {loop:.6f}")
    print(f"{'scikit-learn: AUROC, AP, F1-max only':<48}{other_seconds:>9.2f}  {others}")
    print(
        f"AUPRO loop / meds: {loop_seconds / exact_seconds:.1f}; all by the others / meds: "
        f"{(loop_seconds + other_seconds) / exact_seconds:.1f}; meds needs {memory:.0f} MiB more at its peak"
    )


if __name__ == "__main__":
    main()
