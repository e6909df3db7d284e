"""Training images made of random maps, and FUN-AD's iteration written out one step at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from meds_fun_ad import FunADOptions
from meds_fun_ad.features import Joined
from meds_fun_ad.network import LocalNetwork
from torch import Tensor

from meds.api import Checkpoints, Layer

CNN_LAYERS = (Layer("stride8", 5, 4, 4), Layer("stride16", 3, 2, 2))
VIT_LAYERS = (Layer("final", 6, 3, 3), Layer("prefix11", 6, 1, 5))
SMALL = {"hidden": (7, 5), "epochs": 3, "batch_size": 4, "learning_rate": 0.01}


class Bar:
    def advance(self, steps: int = 1, note: str = "") -> None:
        """Show nothing."""


class Training:
    """What a detector sees of training images, here maps in memory: [n, C, H, W] for each layer."""

    def __init__(self, maps: Sequence[Tensor], folder: Path, seed: int = 7) -> None:
        self.maps, self.seed = list(maps), seed
        self.device = torch.device("cpu")
        self.classes = torch.zeros(len(maps[0]), dtype=torch.int64)
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

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext()


def maps_of(count: int, layers: Sequence[Layer] = CNN_LAYERS, seed: int = 0) -> list[Tensor]:
    """Maps of images, drawn."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, layer.channels, layer.height, layer.width, generator=generator) for layer in layers]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def joined(features: Joined) -> Tensor:
    """Features [B, P, G + C], the image's vector repeated for each of its patches."""
    repeated = features.images[:, None].repeat(1, features.patches.shape[1], 1)
    return torch.cat([repeated, features.patches], dim=2)


def published_scores(network: LocalNetwork, features: Tensor) -> Tensor:
    """Scores 0 to 1 of joined features [..., D], one layer after the other."""
    return torch.sigmoid(network.discriminator(published_adapted(network, features)))[..., 0]


def published_adapted(network: LocalNetwork, features: Tensor) -> Tensor:
    """Adapted features of joined features."""
    return F.leaky_relu(network.adaptor(features), 0.2)


def published_memory_distance(patch: Tensor, memory: Tensor, zero_below: float) -> float:
    """Distance of one patch by the rule of the two nearest."""
    two = sorted(float((patch - vector).square().sum()) for vector in memory)[:2]
    two = [0.0 if value < zero_below else value for value in two]
    return two[-1] if two[0] == 0 else two[0]


def published_pairs(vectors: Tensor) -> list[tuple[int, int]]:
    """Pairs that are each other's nearest, by comparing all with all."""

    def nearest(i: int) -> int:
        others = [j for j in range(len(vectors)) if j != i]
        return min(others, key=lambda j: float((vectors[i] - vectors[j]).square().sum()))

    found = [nearest(i) for i in range(len(vectors))]
    return [(i, j) for i, j in enumerate(found) if found[j] == i and i < j]


def published_loss(
    network: LocalNetwork, features: Joined, memory: Tensor, options: FunADOptions, generator: torch.Generator
) -> Tensor:
    """The loss of a batch, everything computed for every patch."""
    clean = joined(features)
    images, patches, width = clean.shape
    adapted = published_adapted(network, clean).detach().reshape(-1, width)
    distances = torch.tensor([published_memory_distance(p, memory, options.zero_below) for p in adapted])
    distances = (distances - distances.min()) / (distances.max() - distances.min())
    labels = (distances > options.threshold).view(images, patches)
    noised = labels & (distances.view(images, patches) < options.noise_threshold)
    scale = torch.tensor([max(float(clean[:, p, c].std()) for p in range(patches)) for c in range(width)])
    noisy = clean.clone()
    noise = torch.randn(int(noised.sum()), width, generator=generator)
    noisy[noised] = noisy[noised] + noise * scale
    predicted = published_scores(network, noisy)
    entropy = sum(
        F.binary_cross_entropy(predicted[side], torch.full_like(predicted[side], float(value)))
        for side, value in ((labels, 1), (~labels, 0))
    )
    seen = noisy if options.noise_in_place else clean
    scores = published_scores(network, seen).flatten()
    pairs = published_pairs(published_adapted(network, seen).detach().reshape(-1, width))
    first, second = scores[[i for i, _ in pairs]], scores[[j for _, j in pairs]]
    middle = (first + second) / 2
    smoothness = 0.5 * (F.l1_loss(first, middle) + F.l1_loss(second, middle))
    return entropy + options.smoothness_weight * smoothness
