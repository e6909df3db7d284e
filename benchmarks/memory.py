"""Times the memory estimators against 100 FAISS flat indexes that are searched one after another.

    python benchmarks/memory.py [--images 60] [--patches 784] [--channels 384] [--json FILE]

The peer builds one exact inner-product index for each random bank, searches every patch of every image
in it on all cores, and averages the nearest distances: what a direct reading of the paper does.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import faiss
import numpy as np
import torch

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


def ours(vectors: torch.Tensor, options: MemoryOptions, coarse: bool) -> tuple[np.ndarray, float]:
    """Scores [n, P] and the seconds that they took."""
    start = time.perf_counter()
    side = (1, vectors.shape[1])
    memory = ClassMemory(options, vectors, side, seed=0, coarse=coarse)
    maps = torch.stack([memory.score(query, place) for place, query in enumerate(vectors)])
    return maps.flatten(1).numpy(), time.perf_counter() - start


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--patches", type=int, default=784)
    parser.add_argument("--channels", type=int, default=384)
    parser.add_argument("--banks", type=int, default=100)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    runtime = Runtime()
    faiss.omp_set_num_threads(runtime.threads)
    coarse = runtime.precision == "bf16"
    vectors = features(given.images, given.patches, given.channels)
    exact, exact_seconds = ours(vectors, MemoryOptions(self_match=True), coarse)
    drawn = MemoryOptions(estimator="bootstrap", banks=given.banks, self_match=True)
    bootstrap, bootstrap_seconds = ours(vectors, drawn, coarse)
    size = max(1, round(0.1 * given.images))
    banks = draw_banks(given.images, size, given.banks, replacement=False, seed=0)
    start = time.perf_counter()
    reference = naive(vectors, banks)
    naive_seconds = time.perf_counter() - start
    result = {
        "images": given.images,
        "patches": given.patches,
        "channels": given.channels,
        "banks": given.banks,
        "device": runtime.describe(),
        "processor": platform.processor() or platform.machine(),
        "faiss": faiss.__version__,
        "torch": torch.__version__,
        "naive_seconds": naive_seconds,
        "exact_seconds": exact_seconds,
        "bootstrap_seconds": bootstrap_seconds,
        "exact_ratio": naive_seconds / exact_seconds,
        "bootstrap_ratio": naive_seconds / bootstrap_seconds,
        "bootstrap_largest_difference": float(np.abs(bootstrap - reference).max()),
        "exact_largest_difference": float(np.abs(exact - reference).max()),
    }
    print(f"{given.images} images x {given.patches} patches x {given.channels} channels, {given.banks} banks")
    print(f"{'':22}{'seconds':>10}{'ratio':>8}{'largest difference':>22}")
    print(f"{'100 FAISS indexes':22}{naive_seconds:10.2f}{1:8.1f}")
    for name in ("bootstrap", "exact"):
        seconds, ratio = result[f"{name}_seconds"], result[f"{name}_ratio"]
        print(f"{'meds ' + name:22}{seconds:10.2f}{ratio:8.1f}{result[f'{name}_largest_difference']:22.2e}")
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
