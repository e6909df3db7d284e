"""Training images made of random maps, and InReaCh's steps written out one patch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from meds_inreach import InReaChOptions
from torch import Tensor

from meds.api import Checkpoints, Layer

LAYERS = (Layer("stride4", 3, 4, 4), Layer("stride8", 5, 2, 2))
SMALL: dict[str, Any] = {"layer_channels": 12, "channels": 10, "position": "never", "seeds": 3}


class Bar:
    def advance(self, steps: int = 1, note: str = "") -> None:
        """Show nothing."""


class Training:
    """What a detector sees of training images, here maps in memory: [n, C, H, W] for each layer."""

    def __init__(
        self,
        maps: Sequence[Tensor],
        folder: Path,
        classes: Sequence[int] | None = None,
        pixels: Tensor | None = None,
    ) -> None:
        self.maps, self.seed, self.pixels = list(maps), 7, pixels
        self.device = torch.device("cpu")
        self.classes = torch.tensor(classes or [0] * len(maps[0]))
        self.contents = torch.arange(len(self.classes))
        self.checkpoints = Checkpoints(folder)

    def __len__(self) -> int:
        return len(self.classes)

    def read(self, positions: Sequence[int]) -> list[Tensor]:
        return [values[list(positions)] for values in self.maps]

    def images(self, positions: Sequence[int]) -> Tensor:
        assert self.pixels is not None
        return self.pixels[list(positions)]

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Bar]:
        yield Bar()


def maps_of(count: int, seed: int = 0, spread: float = 0.3, layers: Sequence[Layer] = LAYERS) -> list[Tensor]:
    """Maps of images that resemble one another."""
    shared, own = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    return [
        torch.randn(1, layer.channels, layer.height, layer.width, generator=shared)
        + spread * torch.randn(count, layer.channels, layer.height, layer.width, generator=own)
        for layer in layers
    ]


def pooled(values: Tensor, outputs: int) -> Tensor:
    """Adaptive mean of the last dimension."""
    return F.adaptive_avg_pool1d(values[None], outputs)[0]


def published_patches(maps: Sequence[Tensor], options: InReaChOptions, side: int) -> Tensor:
    """Patch vectors [n, side², channels], in the published order: unfold, resize, pool, join, pool."""
    images = []
    for number in range(len(maps[0])):
        parts = []
        for values in maps:
            unfolded = F.unfold(values[number : number + 1], options.neighbourhood, padding=options.neighbourhood // 2)
            grid = unfolded.view(1, -1, *values.shape[-2:])
            finer = values.shape[-1] > side
            grid = (
                F.adaptive_avg_pool2d(grid, side)
                if finer
                else F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False)
            )
            parts.append(pooled(grid[0].flatten(1).T, options.layer_channels))
        assert options.channels is not None
        images.append(pooled(torch.cat(parts, dim=1), options.channels))
    return torch.stack(images)


def nearest(vector: np.ndarray, others: np.ndarray) -> tuple[float, int]:
    """Distance and number of the nearest."""
    distances = [float(((vector - other) ** 2).sum()) for other in others]
    return min(distances), int(np.argmin(distances))


def published_channels(
    images: np.ndarray, seeds: int, rule: str = "mutual", swapped: bool = False
) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """{(seed image, position): [(image, position), ...]} of images [n, P, C], patch by patch."""
    channels = {(s, p): [(s, p)] for s in range(min(seeds, len(images))) for p in range(len(images[0]))}
    for j in range(1, len(images)):
        for p, patch in enumerate(images[j]):
            found = []
            for s in range(min(seeds, j)):
                distance, q = nearest(patch, images[s])
                mutual = nearest(images[s][q], images[j])[1] == p
                found.append((distance, s, q, mutual))
            if rule == "mutual":
                found = [entry for entry in found if entry[3]]
            if not found:
                continue
            _, s, q, mutual = min(found)
            if mutual:
                begun, own = (p, q) if swapped else (q, p)
                channels[s, begun].append((j, own))
    return channels


def published_kept(
    images: np.ndarray, channels: dict[tuple[int, int], list[tuple[int, int]]], options: InReaChOptions
) -> set[tuple[int, int]]:
    """The patches (image, position) that pass the filter."""
    kept: set[tuple[int, int]] = set()
    for members in channels.values():
        if len(members) <= options.min_channel_length:
            continue
        vectors = np.stack([images[i, p] for i, p in members])
        radii = np.linalg.norm(vectors - vectors.mean(axis=0), axis=1)
        spread = radii.std() if options.spread == "std" else np.sqrt((radii**2).mean())
        inside = [m for m, r in zip(members, radii, strict=True) if r < options.max_channel_std * spread]
        if len(inside) > options.min_channel_length:
            kept |= set(inside)
    return kept
