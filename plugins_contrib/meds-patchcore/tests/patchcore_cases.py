"""Training images made of random maps, and PatchCore's steps written out one number at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from meds_patchcore import PatchCoreOptions
from meds_patchcore.detector import PatchCore
from torch import Tensor

from meds.api import Checkpoints, Layer, random_projection

LAYERS = (Layer("fine", 5, 4, 4), Layer("coarse", 7, 2, 2))
SMALL = {"layer_channels": 12, "channels": 10, "projection": 4}


class Bar:
    def advance(self, steps: int = 1, note: str = "") -> None:
        """Show nothing."""


class Training:
    """What a detector sees of training images, here maps in memory: [n, C, H, W] for each layer."""

    def __init__(
        self, maps: Sequence[Tensor], folder: Path, classes: Sequence[int] | None = None, seed: int = 7
    ) -> None:
        self.maps, self.seed = list(maps), seed
        self.device = torch.device("cpu")
        self.classes = torch.tensor(classes or [0] * len(maps[0]))
        self.contents = torch.arange(len(self.classes))
        self.checkpoints = Checkpoints(folder)

    def __len__(self) -> int:
        return len(self.classes)

    def read(self, positions: Sequence[int]) -> list[Tensor]:
        return [values[list(positions)] for values in self.maps]

    def batches(self, size: int = 3, title: str = "") -> Iterator[tuple[list[int], list[Tensor]]]:
        for start in range(0, len(self), size):
            positions = list(range(start, min(start + size, len(self))))
            yield positions, self.read(positions)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Bar]:
        yield Bar()


def images(count: int, seed: int = 0, layers: Sequence[Layer] = LAYERS) -> list[Tensor]:
    """Maps of images that resemble one another."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.Generator().manual_seed(99)
    return [
        torch.randn(1, layer.channels, layer.height, layer.width, generator=shared)
        + 0.5 * torch.randn(count, layer.channels, layer.height, layer.width, generator=generator)
        for layer in layers
    ]


def fitted(training: Any, **options: Any) -> PatchCore:
    detector = PatchCore(PatchCoreOptions(**(SMALL | options)), LAYERS, ["a", "b"])
    detector.fit(training)
    return detector


def literal_embedding(maps: Sequence[Tensor], side: int, layer_channels: int, channels: int) -> Tensor:
    """Unfold, resize every number of a patch as an image, pool each layer, pool the layers together: [B, P, C]."""
    grid = maps[0].shape[-2:]
    layers = []
    for values in maps:
        count, _, height, width = values.shape
        squares = F.unfold(values, side, padding=side // 2).view(count, -1, height, width)
        squares = F.interpolate(squares, size=grid, mode="bilinear", align_corners=False)
        layers.append(F.adaptive_avg_pool1d(squares.flatten(2).transpose(1, 2), layer_channels))
    return F.adaptive_avg_pool1d(torch.stack(layers, dim=2).flatten(2), channels)


def small_embedding(maps: Sequence[Tensor]) -> Tensor:
    """The embedding by the options `SMALL`."""
    return literal_embedding([values.double() for values in maps], 3, SMALL["layer_channels"], SMALL["channels"])


def literal_choice(vectors: Tensor, count: int, seed: int, starts: int = 10) -> tuple[list[int], list[list[float]]]:
    """The coreset of patches [n, C], one pick and one distance at a time, and the projected patches."""
    generator = torch.Generator().manual_seed(seed)
    matrix = random_projection(vectors.shape[1], SMALL["projection"], generator)
    points = (vectors @ matrix.double()).tolist()
    drawn = torch.randperm(len(points), generator=generator)[:starts].tolist()
    reach = [sum(math.dist(point, points[s]) for s in drawn) / len(drawn) for point in points]
    picks = []
    for _ in range(count):
        picks.append(max(range(len(points)), key=lambda i: reach[i]))
        reach = [min(value, math.dist(point, points[picks[-1]])) for value, point in zip(reach, points, strict=True)]
    return picks, points


def smallest_distances(queries: Tensor, memory: Tensor, count: int = 1) -> Tensor:
    """Mean of the `count` smallest squared distances of queries [Q, C] to a memory [M, C], [Q]."""
    return torch.tensor(
        [
            sum(sorted(sum((a - b) ** 2 for a, b in zip(query, row, strict=True)) for row in memory.tolist())[:count])
            / count
            for query in queries.tolist()
        ]
    )
