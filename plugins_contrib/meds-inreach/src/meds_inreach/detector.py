"""InReaCh (McIntosh and Albu, ICCV 2023) as a detector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from meds.api import Backbone, Detector, EvaluationDefaults, PluginError, Scores, TrainingFeatures

from . import InReaChOptions
from .channels import Members, find_members, long_enough, near_the_mean
from .embedding import PatchEmbedding, embedded_layers
from .images import ClassImages, embedded
from .memory import PatchMemory


class InReaCh(Detector):
    """Distance to those training patches that many training images agree on.

    Every class has a memory of its own.
    """

    options: InReaChOptions
    _memories: dict[int, PatchMemory]
    _known: Tensor

    @classmethod
    def layers_needed(cls, options: Any, backbone: Backbone) -> tuple[str, ...]:
        """The layers of the option, or those nearest to the published ones."""
        return embedded_layers(options, backbone)

    def evaluation_defaults(self) -> EvaluationDefaults:
        """As published: maps in steps at 224², a Gaussian of sigma 13, the largest value as the image's score."""
        return EvaluationDefaults(map_size=224, upsampling="nearest", sigma=13.0, image_score="max")

    def fit(self, training: TrainingFeatures) -> None:
        """Choose and keep the memory of each class, then score the training images without their own patches.

        Raises:
            PluginError: a class has no patches that images agree on.
        """
        classes = torch.unique(training.classes).tolist()
        saved = training.checkpoints.load() or {}
        images, kept = {}, {}
        for index in classes:
            images[index] = ClassImages(training, index, self._embedding, self.options)
            if f"kept.{index}" in saved:
                images[index].places = bool(saved[f"places.{index}"])
                kept[index] = saved[f"kept.{index}"].to(training.device)
            else:
                kept[index] = self._agreed(images[index])
        choice = {f"kept.{index}": kept[index] for index in classes}
        choice |= {f"places.{index}": torch.tensor(images[index].places) for index in classes}
        if not saved:
            training.checkpoints.save(0, choice)
        self._memories = {index: self._gathered(images[index], kept[index]) for index in classes}
        maps = saved.get("maps", torch.zeros(0, *self._embedding.grid)).to(training.device)
        self._known = self._score_training(training, images, choice, maps)

    def score(self, features: Sequence[Tensor], classes: Tensor) -> Scores:
        """Distances of each image's patches to the memory of its class."""
        rows = []
        for place, index in enumerate(classes.tolist()):
            memory = self._memories[index]
            reach = self.options.position_range if memory.vectors.shape[1] > self._embedding.width else None
            patches = embedded([maps[place : place + 1] for maps in features], self._embedding, reach)[0]
            rows.append(self._measured(memory.squared_distances(patches)))
        return Scores([torch.stack(rows)])

    def training_scores(self) -> Scores | None:
        """Scores of the training images, each from the memory without its own patches and those of its copies."""
        return Scores([self._known])

    def state(self) -> dict[str, Tensor]:
        """For each class `vectors.<index>` float32 [M, C] and `owners.<index>` int64 [M]; `training_maps` [n, H, W]."""
        found = {"training_maps": self._known}
        for index, memory in self._memories.items():
            found |= {f"vectors.{index}": memory.vectors, f"owners.{index}": memory.owners}
        return found

    def load_state(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Take over what `state` gave."""
        moved = {name: values.to(device) for name, values in state.items()}
        indices = [int(name.partition(".")[2]) for name in moved if name.startswith("vectors.")]
        self._memories = {i: PatchMemory(moved[f"vectors.{i}"], moved[f"owners.{i}"]) for i in indices}
        self._known = moved["training_maps"]

    @cached_property
    def _embedding(self) -> PatchEmbedding:
        return PatchEmbedding(self.options, self.layers)

    @property
    def _per_image(self) -> int:
        return self._embedding.grid[0] * self._embedding.grid[1]

    def _agreed(self, images: ClassImages) -> Tensor:
        """The patches of a class that its images agree on, ascending int64 [M]."""
        options = self.options
        images.look_for_places()
        patches = images.patches("channels")
        members = find_members(patches, options.seeds, options.best_seed, options.swapped_indices)
        members = long_enough(members, options.min_channel_length)
        distances, norms = distances_to_mean(images, members)
        members = near_the_mean(members, distances, norms, options.max_channel_std, options.spread)
        kept: Tensor = torch.unique(long_enough(members, options.min_channel_length).patches)
        # Copies of one image agree on everything, and are passed over when it is scored.
        if len(torch.unique(images.contents[(kept // self._per_image).cpu()])) < 2:
            raise PluginError(
                f"The detector 'inreach' found no patches that more than {options.min_channel_length} of "
                f"{len(images)} training images of a class agree on: use more images, a coarser 'grid', a smaller "
                "'min_channel_length' or a larger 'max_channel_std'."
            )
        return kept

    def _gathered(self, images: ClassImages, kept: Tensor) -> PatchMemory:
        owners = kept // self._per_image
        parts = [
            values[kept[owners == number] - number * self._per_image] for number, values in images.patches("memory")
        ]
        return PatchMemory(torch.cat(parts), owners)

    def _score_training(
        self,
        training: TrainingFeatures,
        images: Mapping[int, ClassImages],
        choice: Mapping[str, Tensor],
        maps: Tensor,
    ) -> Tensor:
        """Maps [n, H, W] of the training images in their order; `maps` are those that a killed fit has left."""
        done = list(maps)
        order: list[int] = []
        for index, members in images.items():
            skipped = min(max(len(done) - len(order), 0), len(members))
            order += members.positions
            for number, patches in members.patches("scores without the image itself", skipped):
                own = (members.contents == members.contents[number]).nonzero()[:, 0].tolist()
                done.append(self._measured(self._memories[index].squared_distances(patches, without=own)))
                if training.checkpoints.due():
                    training.checkpoints.save(len(done), {**choice, "maps": torch.stack(done)})
        return torch.stack(done)[torch.tensor(order).argsort()]

    def _measured(self, squared: Tensor) -> Tensor:
        distances = squared if self.options.distance == "squared" else squared.sqrt()
        return distances.view(self._embedding.grid)


def distances_to_mean(images: ClassImages, members: Members) -> tuple[Tensor, Tensor]:
    """Distance of every member to the mean of its channel, and the length of that mean, both [m]."""
    used, compact = torch.unique(members.channels, return_inverse=True)
    lengths = torch.bincount(compact, minlength=len(used))[:, None]
    sums: Tensor | None = None
    for rows, vectors in _by_image(images, members, "means of channels"):
        if sums is None:
            sums = torch.zeros(len(used), vectors.shape[1], dtype=torch.float64, device=vectors.device)
        sums.index_add_(0, compact[rows], vectors.double())
    distances = torch.zeros(len(compact), dtype=torch.float64, device=compact.device)
    if sums is None:
        return distances, distances
    means = sums / lengths
    for rows, vectors in _by_image(images, members, "distances to the means"):
        distances[rows] = (vectors - means[compact[rows]]).norm(dim=1)
    return distances, means.norm(dim=1)[compact]


def _by_image(images: ClassImages, members: Members, title: str) -> Iterator[tuple[Tensor, Tensor]]:
    """For every image with members their rows among the members and their vectors."""
    order = members.patches.argsort(stable=True)
    start = 0
    for number, vectors in images.patches(title):
        end = int(torch.searchsorted(members.patches[order], (number + 1) * len(vectors)))
        rows = order[start:end]
        start = end
        if len(rows):
            yield rows, vectors[members.patches[rows] - number * len(vectors)]
