"""Training images made of random maps, as a detector sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from meds_softpatch import SoftPatchOptions
from meds_softpatch.detector import SoftPatch
from torch import Tensor

from meds.api import Checkpoints, Layer

LAYERS = (Layer("only", 6, 3, 3),)
# A patch is then a position's six numbers, and nothing is pooled.
PLAIN = {"neighbourhood": 1, "layer_channels": 6, "channels": 6, "projection": 3}


class Bar:
    def advance(self, steps: int = 1, note: str = "") -> None:
        """Show nothing."""


class Training:
    """What a detector sees of training images, here one layer's maps in memory: [n, C, H, W]."""

    def __init__(self, maps: Tensor, folder: Path, classes: Sequence[int] | None = None) -> None:
        self.maps, self.seed, self.device = maps, 7, torch.device("cpu")
        self.classes = torch.tensor(classes or [0] * len(maps))
        self.contents = torch.arange(len(self.classes))
        self.checkpoints = Checkpoints(folder)

    def __len__(self) -> int:
        return len(self.maps)

    def read(self, positions: Sequence[int]) -> list[Tensor]:
        return [self.maps[list(positions)]]

    def batches(self, size: int = 4, title: str = "") -> Iterator[tuple[list[int], list[Tensor]]]:
        for start in range(0, len(self), size):
            positions = list(range(start, min(start + size, len(self))))
            yield positions, self.read(positions)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Bar]:
        yield Bar()


def images(count: int, seed: int = 0) -> Tensor:
    """Maps of images that resemble one another place by place."""
    shared = torch.randn(1, 6, 3, 3, generator=torch.Generator().manual_seed(99))
    return 2 * shared + torch.randn(count, 6, 3, 3, generator=torch.Generator().manual_seed(seed))


def patches_of(maps: Tensor) -> Tensor:
    """Patches by the options `PLAIN`: [n, C, H, W] -> [n, H * W, C]."""
    return maps.flatten(2).transpose(1, 2)


def new(**options: Any) -> SoftPatch:
    return SoftPatch(SoftPatchOptions(**(PLAIN | options)), LAYERS, ["nut", "bolt"])


def fitted(training: Any, **options: Any) -> SoftPatch:
    detector = new(**options)
    detector.fit(training)
    return detector
