"""Times the memory estimators against 100 FAISS flat indexes that are searched one after another.

    python benchmarks/memory.py [--images 120] [--patches 784] [--channels 384] [--timed-banks 5] [--json FILE]
    python benchmarks/memory.py --spec benchmarks/bottle.yaml --set dataset.path=DATA/bottle

The vectors are drawn, or those that the stage `memory` of a spec with one class would search. The peer builds one exact
inner-product index for each random bank, searches every patch of every image in it on all cores, and averages the
nearest distances: what a direct reading of the paper does. With fewer timed banks or images its time is reckoned from
these. A second peer is the loop of the method's released code: image by image one product of its patches with the bank,
rounded, and the minimum; it is always reckoned from five banks. The floor is what the products alone would take at the
rate of one large product on this machine. On an accelerator ours run there, and the peers on the processor.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from surroundings import write_result

from meds.core.context import stage_context
from meds.core.extract import extract_features
from meds.core.pipeline import Pipeline
from meds.core.registry import registry
from meds.core.reporter import SilentReporter
from meds.core.runtime import CostMeter, Runtime
from meds.core.spec import load_spec
from meds.core.timing import seconds_of
from meds.core.workload import image_pairs
from meds.stages.class_memory import ClassMemory
from meds.stages.memory import Memory
from meds.stages.memory_estimators import draw_banks
from meds.stages.options import MemoryOptions


def drawn_vectors(images: int, patches: int, channels: int) -> torch.Tensor:
    """Unit vectors [n, P, C] that cluster as encoder features do: a vector for each place plus variation."""
    generator = torch.Generator().manual_seed(0)
    places = torch.randn(1, patches, channels, generator=generator)
    vectors = torch.randn(images, patches, channels, generator=generator).mul_(0.7).add_(places)
    return torch.nn.functional.normalize(vectors, dim=2, out=vectors)


def vectors_of_spec(path: Path, sets: list[str]) -> torch.Tensor:
    """The vectors [n, P, C] of all training images of a spec."""
    pipeline = Pipeline(load_spec(path, registry(), sets), registry())
    images = pipeline.data.train
    arguments = (pipeline.backbone, pipeline.layers, pipeline.features, pipeline.runtime, SilentReporter())
    extract_features(pipeline.dataset, images, *arguments)
    vectors, _ = Memory(MemoryOptions()).patch_vectors(stage_context(pipeline, "memory"), images)
    return vectors


def with_faiss(vectors: torch.Tensor, banks: torch.Tensor, images: list[int]) -> np.ndarray:
    """Mean over banks of the nearest cosine distance of some images; an image may be its own neighbour."""
    _, patches, channels = vectors.shape
    data = vectors.numpy()
    total = np.zeros((len(images), patches))
    for bank in banks.numpy():
        index = faiss.IndexFlatIP(channels)
        index.add(data[bank].reshape(-1, channels))
        for row, image in enumerate(images):
            cosines, _ = index.search(data[image], 1)
            total[row] += 1 - cosines[:, 0]
    return total / len(banks)


def released_loop(vectors: torch.Tensor, banks: torch.Tensor, images: list[int]) -> None:
    """What the released code does for a bank: one product for each image, rounded to four digits, and its minimum."""
    for bank in banks:
        patches = vectors[bank].flatten(0, 1)
        for image in vectors[images]:
            (1 - image @ patches.T).mul_(1e4).round_().div_(1e4).amin(dim=1)


def ours(vectors: torch.Tensor, runtime: Runtime, coarse: bool, **options: Any) -> tuple[np.ndarray, dict[str, float]]:
    """Scores [n, P], and what they cost: seconds, and the peak of the device's memory over that of the vectors."""
    meter = CostMeter(runtime.device)
    before = meter.stop()["peak_rss_mib"]
    memory = ClassMemory(
        MemoryOptions(self_match=True, **options), vectors, (1, vectors.shape[1]), seed=0, coarse=coarse
    )
    maps = dict(memory.score_all(runtime.side_by_side))
    cost = meter.stop()
    # What a process has is counted beside what it had before, what an accelerator has in full.
    peak = cost["peak_gpu_mib"] or cost["peak_rss_mib"] - before + vectors.nbytes / 2**20
    scores = torch.stack([maps[place] for place in range(len(vectors))]).flatten(1).cpu().numpy()
    return scores, {"seconds": cost["wall_s"], "memory": peak * 2**20 / vectors.nbytes}


def product_rate(channels: int, coarse: bool, device: torch.device) -> float:
    """Operations a second of one large product of vectors of this width, in the precision of the search."""
    vectors = torch.randn(6272, channels, device=device).to(torch.bfloat16 if coarse else torch.float32)
    result = torch.empty(len(vectors), len(vectors), dtype=vectors.dtype, device=device)
    seconds = seconds_of(lambda: torch.mm(vectors, vectors.T, out=result), 5)
    return 2 * len(vectors) ** 2 * channels / seconds


def image_order(scores: np.ndarray) -> list[int]:
    """Images by the mean of their largest hundredth of patch scores, most suspicious first."""
    largest = max(1, scores.shape[1] // 100)
    return np.argsort(-np.sort(scores, axis=1)[:, -largest:].mean(axis=1), kind="stable").tolist()


def compare(vectors: torch.Tensor, banks: int, timed: int, timed_images: int | None) -> dict[str, Any]:
    """All figures of the comparison."""
    count, patches, channels = vectors.shape
    runtime = Runtime()
    coarse = runtime.precision == "bf16"
    faiss.omp_set_num_threads(runtime.threads)
    warm = vectors[:4].clone()
    placed = runtime.put(vectors)
    ours(placed[:4].clone(), runtime, coarse)
    exact, cost = ours(placed, runtime, coarse)
    _, bootstrap_cost = ours(placed, runtime, coarse, estimator="bootstrap", banks=banks)
    in_full, full_cost = ours(placed, runtime, coarse=False)
    size = max(1, round(0.1 * count))
    images = sorted({round(place) for place in np.linspace(0, count - 1, timed_images or count)})
    share = timed / banks * len(images) / count
    with_faiss(warm, torch.tensor([[0]]), [0])
    start = time.perf_counter()
    reference = with_faiss(vectors, draw_banks(count, size, timed, replacement=False, seed=0), images)
    faiss_seconds = (time.perf_counter() - start) / share
    start = time.perf_counter()
    released_loop(vectors, draw_banks(count, size, 5, replacement=False, seed=0), images)
    released_seconds = (time.perf_counter() - start) / share * timed / 5
    options = MemoryOptions(estimator="bootstrap", banks=timed, self_match=True)
    few = ClassMemory(options, placed, (1, patches), seed=0, coarse=coarse)
    compared = range(0, len(images), 8)
    gaps = [np.abs(few.score(placed[images[i]], None)[0].cpu().numpy() - reference[i]).max() for i in compared]
    rate = product_rate(channels, coarse, runtime.device)
    return {
        "images": count,
        "patches": patches,
        "channels": channels,
        "banks": banks,
        "device": runtime.describe(),
        "faiss_seconds": faiss_seconds,
        "released_loop_seconds": released_seconds,
        "exact_seconds": cost["seconds"],
        "bootstrap_seconds": bootstrap_cost["seconds"],
        "exact_in_float32_seconds": full_cost["seconds"],
        "exact_ratio_to_faiss": faiss_seconds / cost["seconds"],
        "exact_ratio_to_released_loop": released_seconds / cost["seconds"],
        "bootstrap_ratio_to_faiss": faiss_seconds / bootstrap_cost["seconds"],
        "exact_peak_over_vectors": cost["memory"],
        "exact_largest_relative_error": float((np.abs(exact - in_full) / np.maximum(in_full, 1e-6)).max()),
        "exact_order_is_that_of_float32": image_order(exact) == image_order(in_full),
        "bootstrap_largest_difference": float(max(gaps)),
        "product_rate_gflops": rate / 1e9,
        "floor_seconds": image_pairs([count], None) * patches**2 * 2 * channels / rate,
    }


def show(figures: dict[str, Any]) -> None:
    """Print the table."""
    print("{images} images x {patches} patches x {channels} channels, {banks} banks, {device}".format(**figures))
    peer = figures["faiss_seconds"]
    print(f"{'':24}{'seconds':>10}{'ratio':>8}")
    print(f"{figures['banks']:4} {'FAISS indexes':19}{peer:10.2f}{1:8.1f}")
    for name, key in (
        ("released code", "released_loop"),
        ("meds bootstrap", "bootstrap"),
        ("meds exact in float32", "exact_in_float32"),
        ("meds exact", "exact"),
        ("floor of exact", "floor"),
    ):
        print(f"{name:24}{figures[f'{key}_seconds']:10.2f}{peer / figures[f'{key}_seconds']:8.1f}")
    print("bootstrap: {bootstrap_largest_difference:.1e} from FAISS on the same banks".format(**figures))
    print(
        "exact: {exact_largest_relative_error:.1e} (relative) from a search in float32, same order of images: "
        "{exact_order_is_that_of_float32}; peak memory {exact_peak_over_vectors:.2f}x the vectors; "
        "{exact_ratio_to_released_loop:.0f} times as fast as the released code; "
        "products at {product_rate_gflops:.0f} GFLOP/s at best".format(**figures)
    )


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--patches", type=int, default=784)
    parser.add_argument("--channels", type=int, default=384)
    parser.add_argument("--spec", type=Path, help="take the vectors of this spec's training images")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="KEY=VALUE of the spec")
    parser.add_argument("--banks", type=int, default=100)
    parser.add_argument("--timed-banks", type=int, default=5, help="banks that the peer really searches")
    parser.add_argument("--timed-images", type=int, help="images that the peers really search for; all by default")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.spec is None:
        vectors = drawn_vectors(given.images, given.patches, given.channels)
    else:
        vectors = vectors_of_spec(given.spec, given.sets)
    figures = compare(vectors, given.banks, min(given.timed_banks, given.banks), given.timed_images)
    show(figures)
    write_result(given.json, figures | {"spec": str(given.spec or "")}, "faiss-cpu")


if __name__ == "__main__":
    main()
