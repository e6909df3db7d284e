"""What PatchCore and its relatives share: a coreset of the training patches, and the distance to it as the score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from meds.core.backbone import Backbone
from meds.core.coreset import coreset_size, greedy_coreset, random_projection
from meds.core.detector import Detector, TrainingFeatures
from meds.core.errors import DataError
from meds.core.model import EvaluationDefaults, Scores
from meds.patch_memory.embedding import PatchEmbedding, embedded_layers
from meds.patch_memory.memory import PatchMemory
from meds.patch_memory.options import PatchMemoryOptions
from meds.patch_memory.patches import TrainingPatches
from meds.patch_memory.stand_ins import stand_ins


class PatchWeights(NamedTuple):
    """What a detector thinks of all training patches, each [n] or None where all are alike.

    `choice` weighs distances in the coreset, and 0 keeps a patch out of the memory; whether the first pick is weighed,
    too, says `weigh_start`. `score` are factors of the distances to a patch in the memory.
    """

    choice: Tensor | None = None
    score: Tensor | None = None
    weigh_start: bool = True


class Choice(NamedTuple):
    """Positions of the patches in the memory [M] and of their stand-ins [M], and the score's factors of both [2, M]."""

    positions: Tensor
    stand_ins: Tensor
    weights: Tensor | None


class PatchMemoryDetector(Detector):
    """Remembers a coreset of the training patches; a patch's score is its distance to the nearest of them.

    All classes of the fit share one memory. Subclasses may weigh patches in `weigh` and score otherwise in `answer`.

    While a training image is scored, each patch in the memory of its own, or of a copy of it, gives way to a patch of
    another image, see `stand_ins`.

    Attributes:
        name: the detector's name in a spec, for the sentences of errors; a subclass sets it.
        memory: the remembered patches, once `fit` or `load_state` has run.
    """

    name: ClassVar[str]
    options: PatchMemoryOptions
    memory: PatchMemory
    _known: Scores

    @classmethod
    def layers_needed(cls, options: Any, backbone: Backbone) -> tuple[str, ...]:
        """The layers of the option, or the published ones."""
        return embedded_layers(cls.name, options, backbone)

    def evaluation_defaults(self) -> EvaluationDefaults:
        """Maps of 224², a Gaussian of sigma 4, and the largest patch score as the image's."""
        return EvaluationDefaults(map_size=224, align_corners=False, sigma=4.0, image_score="patch-max")

    def fit(self, training: TrainingFeatures) -> None:
        """Choose and keep the memory, then score the training images without their own patches.

        Raises:
            DataError: there is only one training image, which could be compared with nothing.
        """
        if len(set(training.contents.tolist())) < 2:
            raise DataError(
                f"The detector '{self.name}' needs at least two different training images, and there is one."
            )
        patches = TrainingPatches(training, self._embedding, self._grid[0] * self._grid[1])
        choice = self._chosen(training, patches)
        weights, others = (None, None) if choice.weights is None else choice.weights
        self.memory = PatchMemory(patches.gather(choice.positions), weights)
        self._known = self._score_training(patches, training.contents, choice, others)

    def weigh(
        self,
        training: TrainingFeatures,  # noqa: ARG002
        patches: TrainingPatches,  # noqa: ARG002
        generator: torch.Generator,  # noqa: ARG002
    ) -> PatchWeights:
        """Weights of the training patches; all are alike unless a subclass says otherwise."""
        return PatchWeights()

    def answer(self, patches: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores of one image's patches [P, C]: of the patches [P], and of the image if it has one of its own."""
        return self.measured(*self.memory.nearest(patches))[:, 0], None

    def measured(self, squared: Tensor, rows: Tensor) -> Tensor:
        """Squared distances to rows of the memory -> distances in the option's measure, weighed."""
        distances = squared if self.options.distance == "squared" else squared.sqrt()
        return distances if self.memory.weights is None else distances * self.memory.weights[rows]

    def score(self, features: Sequence[Tensor], classes: Tensor) -> Scores:  # noqa: ARG002
        """Scores of images; their classes do not matter."""
        return self._scores([self.answer(patches) for patches in self._embedding(features)])

    def training_scores(self) -> Scores | None:
        """Scores of the training images, each from the memory without its own patches."""
        return self._known

    def state(self) -> dict[str, Tensor]:
        """The memory float32 [M, C], its weights [M] if there are any, and what `training_scores` gives."""
        found = {
            "memory": self.memory.vectors,
            "weights": self.memory.weights,
            "training_maps": self._known.maps[0],
            "training_images": self._known.images,
        }
        return {name: values for name, values in found.items() if values is not None}

    def load_state(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Take over what `state` gave."""
        moved = {name: values.to(device) for name, values in state.items()}
        self.memory = PatchMemory(moved["memory"], moved.get("weights"))
        self._known = Scores([moved["training_maps"]], moved.get("training_images"))

    @cached_property
    def _embedding(self) -> PatchEmbedding:
        return PatchEmbedding(self.options, self.layers)

    @property
    def _grid(self) -> tuple[int, int]:
        return self.layers[0].height, self.layers[0].width

    def _chosen(self, training: TrainingFeatures, patches: TrainingPatches) -> Choice:
        """The choice, from a checkpoint where a killed fit has left one."""
        saved = training.checkpoints.load()
        if saved is not None:
            found = {name: values.to(training.device) for name, values in saved.items()}
            return Choice(found["positions"], found["stand_ins"], found.get("weights"))
        choice = self._choose(training, patches)
        training.checkpoints.save(1, {key: values for key, values in choice._asdict().items() if values is not None})
        return choice

    def _choose(self, training: TrainingFeatures, patches: TrainingPatches) -> Choice:
        generator = torch.Generator().manual_seed(training.seed)
        weights = self.weigh(training, patches, generator)
        projection = random_projection(self._embedding.channels, self.options.projection, generator)
        projected = patches.project(projection)
        with training.bar("coreset", coreset_size(self.options.coreset_ratio, len(patches))) as bar:
            positions = greedy_coreset(
                projected,
                self.options.coreset_ratio,
                generator=generator,
                projection=None,
                starts=self.options.starts,
                weights=weights.choice,
                weigh_start=weights.weigh_start,
                progress=bar.advance,
            )
        others = stand_ins(projected, positions, training.contents, weights.choice)
        both = None if weights.score is None else weights.score[torch.stack([positions, others])]
        return Choice(positions, others, both)

    def _score_training(
        self, patches: TrainingPatches, contents: Tensor, choice: Choice, weights: Tensor | None
    ) -> Scores:
        """Scores of all training images; `weights` are those of the stand-ins."""
        shown = contents.to(choice.positions.device)
        vectors, owned = patches.gather(choice.stand_ins), shown[patches.image_of(choice.positions)]
        answers = []
        for image, seen in patches.images():
            own = (owned == shown[image]).nonzero()[:, 0]
            with self.memory.replaced(own, vectors[own], None if weights is None else weights[own]):
                answers.append(self.answer(seen))
        return self._scores(answers)

    def _scores(self, answers: Sequence[tuple[Tensor, Tensor | None]]) -> Scores:
        images = [image for _, image in answers if image is not None]
        maps = torch.stack([scores for scores, _ in answers]).view(-1, *self._grid)
        return Scores([maps], torch.stack(images) if images else None)
