"""Times the memory estimators against 100 FAISS flat indexes that are searched one after another.

    python benchmarks/memory.py [--images 60] [--patches 784] [--channels 384] [--timed-banks 100] [--json FILE]

The peer builds one exact inner-product index for each random bank, searches every patch of every image
in it on all cores, and averages the nearest distances: what a direct reading of the paper does. With fewer timed
banks its time is reckoned from these. A second peer is the loop of the method's released code: image by image one
product of its patches with the bank, rounded, and the minimum; it is always reckoned from five banks.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import faiss
import numpy as np
import torch
from surroundings import write_result

from meds.core.runtime import Runtime
from meds.stages.memory import ClassMemory
from meds.stages.memory_estimators import draw_banks
from meds.stages.options import MemoryOptions


def features(images: int, patches: int, channels: int) -> torch.Tensor:
    """Unit vectors [n, P, C] that cluster as encoder features do: a vector for each place plus variation."""
    generator = torch.Generator().manual_seed(0)
    places = torch.randn(1, patches, channels, generator=generator)
    vectors = places + 0.7 * torch.randn(images, patches, channels, generator=generator)
    return torch.nn.functional.normalize(vectors, dim=2)


def naive(vectors: torch.Tensor, banks: torch.Tensor) -> np.ndarray:
    """Mean over banks of the nearest cosine distance; an image may be its own neighbour."""
    count, patches, channels = vectors.shape
    data = vectors.numpy()
    total = np.zeros((count, patches))
    for bank in banks.numpy():
        index = faiss.IndexFlatIP(channels)
        index.add(data[bank].reshape(-1, channels))
        for image in range(count):
            cosines, _ = index.search(data[image], 1)
            total[image] += 1 - cosines[:, 0]
    return total / len(banks)


def released_loop(vectors: torch.Tensor, banks: torch.Tensor) -> None:
    """What the released code does for a bank: one product for each image, rounded to four digits, and its minimum."""
    for bank in banks:
        patches = vectors[bank].flatten(0, 1)
        for image in vectors:
            (1 - image @ patches.T).mul_(1e4).round_().div_(1e4).amin(dim=1)


def ours(vectors: torch.Tensor, options: MemoryOptions, coarse: bool) -> tuple[np.ndarray, float]:
    """Scores [n, P] and the seconds that they took."""
    start = time.perf_counter()
    side = (1, vectors.shape[1])
    memory = ClassMemory(options, vectors, side, seed=0, coarse=coarse)
    maps = torch.stack(list(Runtime().side_by_side(memory.score_own, range(len(vectors)))))
    return maps.flatten(1).numpy(), time.perf_counter() - start


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--patches", type=int, default=784)
    parser.add_argument("--channels", type=int, default=384)
    parser.add_argument("--banks", type=int, default=100)
    parser.add_argument("--timed-banks", type=int, default=100, help="banks that the peer really searches")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    runtime = Runtime()
    faiss.omp_set_num_threads(runtime.threads)
    coarse = runtime.precision == "bf16"
    vectors = features(given.images, given.patches, given.channels)
    exact, exact_seconds = ours(vectors, MemoryOptions(self_match=True), coarse)
    drawn = MemoryOptions(estimator="bootstrap", banks=given.banks, self_match=True)
    bootstrap, bootstrap_seconds = ours(vectors, drawn, coarse)
    timed = min(given.timed_banks, given.banks)
    if timed < given.banks:
        bootstrap, _ = ours(vectors, MemoryOptions(estimator="bootstrap", banks=timed, self_match=True), coarse)
    size = max(1, round(0.1 * given.images))
    banks = draw_banks(given.images, size, given.banks, replacement=False, seed=0)
    start = time.perf_counter()
    reference = naive(vectors, banks[:timed])
    naive_seconds = (time.perf_counter() - start) * given.banks / timed
    start = time.perf_counter()
    released_loop(vectors, banks[:5])
    released_seconds = (time.perf_counter() - start) * given.banks / 5
    single = ClassMemory(MemoryOptions(self_match=True), vectors, (1, given.patches), seed=0, coarse=False)
    chosen = list(range(0, given.images, max(1, given.images // 5)))
    in_full = torch.stack([single.score(vectors[place], place) for place in chosen]).flatten(1).numpy()
    error = float((np.abs(exact[chosen] - in_full) / in_full).max())
    result = {
        "images": given.images,
        "patches": given.patches,
        "channels": given.channels,
        "banks": given.banks,
        "device": runtime.describe(),
        "naive_seconds": naive_seconds,
        "exact_seconds": exact_seconds,
        "bootstrap_seconds": bootstrap_seconds,
        "exact_ratio": naive_seconds / exact_seconds,
        "bootstrap_ratio": naive_seconds / bootstrap_seconds,
        "bootstrap_largest_difference": float(np.abs(bootstrap - reference).max()),
        "released_loop_seconds": released_seconds,
        "exact_over_released_loop": released_seconds / exact_seconds,
        "exact_largest_relative_error": error,
    }
    print(f"{given.images} images x {given.patches} patches x {given.channels} channels, {given.banks} banks")
    print(f"{'':22}{'seconds':>10}{'ratio':>8}  largest difference")
    print(f"{'100 FAISS indexes':22}{naive_seconds:10.2f}{1:8.1f}")
    print(f"{'released code':22}{released_seconds:10.2f}{naive_seconds / released_seconds:8.1f}")
    gap = f"{result['bootstrap_largest_difference']:.1e} from FAISS on the same banks"
    print(f"{'meds bootstrap':22}{bootstrap_seconds:10.2f}{naive_seconds / bootstrap_seconds:8.1f}  {gap}")
    gap = f"{error:.1e} (relative) from a search in float32"
    print(f"{'meds exact':22}{exact_seconds:10.2f}{naive_seconds / exact_seconds:8.1f}  {gap}")
    write_result(given.json, result, "faiss-cpu")


if __name__ == "__main__":
    main()
