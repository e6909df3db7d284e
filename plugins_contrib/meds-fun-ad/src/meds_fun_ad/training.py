"""Trains FUN-AD's network on labels that it guesses itself; continues from a checkpoint to the same bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from meds.api import MedsError, TrainingFeatures, derive_seed

from . import FunADOptions
from .features import Joined
from .losses import balanced_cross_entropy, mutual_pairs, mutual_smoothness
from .memory import draw_images, memory_distances, pseudo_labels
from .network import LocalNetwork

_IMAGES = 8


class Trainer:
    """One training: the network and its optimiser are new, and made for these training images only.

    All that is random follows from the seed, the epoch and the iteration, so that a checkpoint holds no random state.
    """

    def __init__(self, network: LocalNetwork, data: Joined, training: TrainingFeatures, options: FunADOptions) -> None:
        self.network, self.data, self.training, self.options = network, data, training, options
        self.optimiser = torch.optim.RMSprop(network.parameters(), lr=options.learning_rate, momentum=options.momentum)
        count = len(data.patches)
        self.batch_size = min(options.batch_size, count)
        self.iterations = options.epochs * (count // self.batch_size)
        self.scores = torch.zeros(count, device=data.patches.device)
        with training.autocast():
            self.coarse = torch.is_autocast_enabled(data.patches.device.type)

    def train(self) -> None:
        """All iterations, from the newest checkpoint on if there is one.

        Raises:
            MedsError: the loss is no longer finite.
        """
        saved = self.training.checkpoints.load()
        start = 0 if saved is None else self._restore(saved)
        with self.training.bar("training", self.iterations) as bar:
            bar.advance(start)
            for iteration in range(start, self.iterations):
                loss = self.step(iteration)
                bar.advance(1, note=f"loss {loss:.4f}")
                if self.training.checkpoints.due():
                    self.training.checkpoints.save(iteration + 1, self._state(iteration + 1))

    def step(self, iteration: int) -> float:
        """One iteration; returns the loss."""
        generator = torch.Generator().manual_seed(derive_seed(self.training.seed, "iteration", iteration))
        memory = self.rebuild_memory(iteration, generator)
        loss = self.loss(self.data.rows(self.batch(iteration)), memory, generator)
        if not bool(torch.isfinite(loss)):
            raise MedsError(
                f"fun-ad: the loss is no longer a finite number at iteration {iteration}; try `precision: fp32` or a "
                "smaller 'learning_rate'."
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return loss.item()

    def batch(self, iteration: int) -> list[int]:
        """The images of an iteration: every epoch has an order of its own."""
        per_epoch = len(self.data.patches) // self.batch_size
        epoch, place = divmod(iteration, per_epoch)
        generator = torch.Generator().manual_seed(derive_seed(self.training.seed, "order", epoch))
        order = torch.randperm(len(self.data.patches), generator=generator).tolist()
        return order[place * self.batch_size : (place + 1) * self.batch_size]

    @torch.no_grad()
    def rebuild_memory(self, iteration: int, generator: torch.Generator) -> Tensor:
        """Adapted features [M, D] of randomly drawn images among those that score low now."""
        options = self.options
        if iteration % options.rescore_every == 0:
            adapted = self._adapted(range(len(self.data.patches)))
            self.scores = torch.cat([self._logits(part).amax(dim=1) for part in adapted]).sigmoid()
        drawn = draw_images(self.scores, options.candidate_threshold, options.memory_share, generator)
        return torch.cat([part.float().flatten(0, 1) for part in self._adapted(drawn)])

    def loss(self, features: Joined, memory: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of a batch of images."""
        options, network = self.options, self.network
        with self.training.autocast():
            adapted = network.adapt(features)
            logits = network.logits(adapted)
        vectors = adapted.detach().float()
        distances = memory_distances(vectors.flatten(0, 1), memory, options.zero_below, self.coarse)
        labels = pseudo_labels(distances.view(logits.shape), options)
        noisy_logits, noisy_vectors = self._with_noise(features, labels.noised, logits, vectors, generator)
        loss = balanced_cross_entropy(noisy_logits, labels.anomalous)
        if options.noise_in_place:
            logits, vectors = noisy_logits, noisy_vectors
        pairs = mutual_pairs(vectors.flatten(0, 1), self.coarse)
        return loss + options.smoothness_weight * mutual_smoothness(logits.sigmoid().flatten(), pairs)

    def _with_noise(
        self, features: Joined, noised: Tensor, logits: Tensor, vectors: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Logits and adapted features of the batch with noise on some patches; the others' are taken over."""
        if not bool(noised.any()):
            return logits, vectors
        joined = features.whole(noised)
        drawn = torch.randn(joined.shape, generator=generator).to(joined.device)
        with self.training.autocast():
            adapted = self.network.adapt_whole(joined + drawn * noise_scale(features))
            values = self.network.logits(adapted)
        return (
            logits.masked_scatter(noised, values),
            vectors.masked_scatter(noised[..., None], adapted.detach().float()),
        )

    def _adapted(self, images: Sequence[int]) -> Iterator[Tensor]:
        for start in range(0, len(images), _IMAGES):
            with self.training.autocast():
                yield self.network.adapt(self.data.rows(list(images[start : start + _IMAGES])))

    def _logits(self, adapted: Tensor) -> Tensor:
        with self.training.autocast():
            return self.network.logits(adapted)

    def _state(self, iteration: int) -> dict[str, Tensor]:
        state = {"iteration": torch.tensor(iteration), "scores": self.scores}
        state |= {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for index, values in self.optimiser.state_dict()["state"].items():
            state |= {f"optimiser.{index}.{key}": torch.as_tensor(value) for key, value in values.items()}
        return state

    def _restore(self, saved: Mapping[str, Tensor]) -> int:
        prefix = "network."
        network = {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}
        self.network.load_state_dict(network)
        moving: dict[int, dict[str, Tensor]] = {}
        for name, value in saved.items():
            if name.startswith("optimiser."):
                _, index, key = name.split(".", 2)
                moving.setdefault(int(index), {})[key] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moving})
        self.scores = saved["scores"].to(self.scores.device)
        return int(saved["iteration"])


def noise_scale(features: Joined) -> Tensor:
    """Standard deviation of the noise for each number of a joined feature [G + C].

    For each channel the largest, over the positions, of the standard deviations over the batch's images.
    """
    return torch.cat([features.images.std(dim=0), features.patches.std(dim=0).amax(dim=0)])
