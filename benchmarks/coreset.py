"""Times the greedy coreset against the plain loop over picks, which has the same result.

    python benchmarks/coreset.py [--images 300] [--patches 784] [--channels 1024] [--ratio 0.1] [--threads 1]

The peer projects once, too, and takes one matrix-vector product for every pick, as the published code of PatchCore
does. It is timed on its first picks only; all take equally long. Its picks are compared with ours.
"""

from __future__ import annotations

import argparse
import time

import torch

from meds.api import greedy_coreset, random_projection

WIDTH = 128


def features(images: int, patches: int, channels: int) -> torch.Tensor:
    """Vectors [n, C] that cluster as encoder features do: a vector for each place plus variation that is uneven."""
    generator = torch.Generator().manual_seed(0)
    places = torch.randn(patches, channels, generator=generator)
    vectors = torch.randn(images, patches, channels, generator=generator).mul_(torch.logspace(0, -1.5, channels))
    return vectors.add_(places).flatten(0, 1)


def plain_loop(vectors: torch.Tensor, picks: int, starts: int = 10) -> list[int]:
    """The first picks, one after the other."""
    generator = torch.Generator().manual_seed(0)
    points = vectors @ random_projection(vectors.shape[1], WIDTH, generator)
    norms = points.square().sum(dim=1)
    drawn = torch.randperm(len(points), generator=generator)[:starts]
    reach = torch.cdist(points, points[drawn]).mean(dim=1)
    chosen = []
    for _ in range(picks):
        best = int(reach.argmax())
        chosen.append(best)
        squared = norms + norms[best] - 2 * (points @ points[best])
        reach = torch.minimum(reach, squared.clamp_min(0).sqrt())
    return chosen


def main() -> None:
    """Run both and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("images", 300), ("patches", 784), ("channels", 1024), ("threads", 1), ("peer_picks", 300)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--ratio", type=float, default=0.1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    vectors = features(given.images, given.patches, given.channels)
    start = time.perf_counter()
    found = greedy_coreset(vectors, given.ratio, generator=torch.Generator().manual_seed(0), projection=WIDTH)
    ours = time.perf_counter() - start
    start = time.perf_counter()
    peer = plain_loop(vectors, min(given.peer_picks, len(found)))
    theirs = (time.perf_counter() - start) * len(found) / len(peer)
    same = sum(a == b for a, b in zip(peer, found.tolist(), strict=False))
    print(f"{len(vectors)} vectors of {vectors.shape[1]} channels, {len(found)} picks, {given.threads} threads")
    print(f"greedy_coreset: {ours:.1f} s")
    print(f"plain loop: {theirs:.0f} s from {len(peer)} picks ({theirs / ours:.1f} times as long)")
    print(f"of these picks {same} are the same, in the same order")


if __name__ == "__main__":
    main()
