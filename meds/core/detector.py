"""The detector contract: a method that makes its own way from training features to anomaly scores.

Memory banks, pseudo-labelled discriminators and models of other libraries are detectors; a network that
reconstructs teacher maps is a `Student`, which memory, distillation and selection can train.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from meds.core.checkpoint import Checkpoints
from meds.core.data import Sample
from meds.core.model import Model, Scores
from meds.core.reporter import ProgressBar
from meds.core.seeds import derive_seed
from meds.core.stage import StageContext


class TrainingFeatures:
    """The training images of one partition, as a detector sees them.

    Attributes:
        classes: class index of every image among the detector's classes, int64 [n] on the CPU.
        contents: a number for what every image shows, int64 [n] on the CPU: equal for copies of one image, which must
            not be asked about each other. Numbers count up in the order of the images.
        seed: the seed of everything that is random in the fit.
        device: where features are, and where the detector should compute.
        checkpoints: where a fit that takes long keeps its state; a killed fit starts again and finds it there.
    """

    def __init__(self, context: StageContext, samples: Sequence[Sample], name: str) -> None:
        self._context, self._samples, self._name = context, list(samples), name
        self.classes = context.class_tensor(samples).cpu()
        numbers: dict[str, int] = {}
        self.contents = torch.tensor([numbers.setdefault(s.digest, len(numbers)) for s in self._samples])
        self.seed = derive_seed(context.seed, "detector", name)
        self.device = context.runtime.device
        self.checkpoints = Checkpoints(context.work, f"{context.name}-{name}")

    def __len__(self) -> int:
        return len(self._samples)

    def read(self, positions: Sequence[int]) -> list[Tensor]:
        """Features of the images at these positions, float32 [n, C, H, W] for each layer, on the device."""
        return self._context.read_features([self._samples[i] for i in positions])

    def batches(self, size: int = 16, title: str = "features") -> Iterator[tuple[list[int], list[Tensor]]]:
        """All images once in their order: positions and features; shows progress."""
        with self.bar(title, len(self)) as bar:
            positions = [list(range(start, min(start + size, len(self)))) for start in range(0, len(self), size)]
            batches = self._context.read_batches([self._samples[i] for i in rows] for rows in positions)
            for rows, (_, features) in zip(positions, batches, strict=True):
                yield rows, features
                bar.advance(len(rows))

    def images(self, positions: Sequence[int]) -> Tensor:
        """The images at these positions, resized and cut for the encoder but not normalised, uint8 [n, S, S, 3].

        They are on the CPU and read from the data set every time: for what must be said of pixels, not of features.
        """
        return torch.stack([torch.from_numpy(self._context.read_image(self._samples[i])) for i in positions])

    def bar(self, title: str, total: int) -> AbstractContextManager[ProgressBar]:
        """A progress bar for a step of the fit."""
        return self._context.reporter.bar(f"{self._context.name} ({self._name}): {title}", total)

    def autocast(self) -> AbstractContextManager[Any]:
        """The run's mixed precision for a forward pass."""
        return self._context.runtime.autocast()


class Detector(Model):
    """Base of methods that are fitted in their own way by the stage `fit`.

    `fit` runs with torch's global generator seeded. Everything that `score` needs must be in `state`.
    """

    @abstractmethod
    def fit(self, training: TrainingFeatures) -> None:
        """Learn from the training images, whose labels nobody knows."""

    @abstractmethod
    def score(self, features: Sequence[Tensor], classes: Tensor) -> Scores:
        """Scores of images from their features [B, C_i, H_i, W_i]; `classes` int64 [B]."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """All that a fitted detector is, as named tensors."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Become the fitted detector that gave `state`, computing on `device`."""

    def training_scores(self) -> Scores | None:
        """Scores of the training images in their order, where `score` would find each image in the memory.

        A memory bank gives an image a distance of nothing to itself, which makes rankings and thresholds worthless.
        None (the default): training images are scored like any other.
        """
        return None
