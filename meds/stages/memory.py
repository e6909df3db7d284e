"""Stage memory: scores every training patch by its mean distance to sparse random memories."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from meds.core.backbone import Backbone
from meds.core.data import Sample
from meds.core.errors import PluginError
from meds.core.model import Model, Scores
from meds.core.reporter import ProgressBar
from meds.core.seeds import derive_seed
from meds.core.stage import Scorer, Stage, StageContext
from meds.core.store import Artifact
from meds.core.student import Student
from meds.core.timing import probes, seconds_of
from meds.core.workload import image_pairs, memory_bytes, scoring_bytes
from meds.stages.class_memory import ClassMemory, Images, draw_candidates
from meds.stages.nearest import copied_bytes
from meds.stages.options import MemoryOptions
from meds.stages.patch_vectors import memory_grid, patch_vectors_of

READ_IMAGES = 32


class Memory(Stage):
    """The low-pass filter of MeDS: artifact kind "memory-scores".

    The artifact holds `scores.safetensors`: `maps` float32 [n, H, W], the score s_M of every patch of
    every training image in the order of the data, and `candidates` int64, the positions of the images
    that the memories are drawn from.
    """

    produces = "memory-scores"
    options: MemoryOptions

    def layers_needed(self, backbone: Backbone, student_layers: Sequence[str]) -> tuple[str, ...]:
        """The student's layers, or the encoder's final layer."""
        if self._uses_final:
            return (backbone.final_layer,)
        return tuple(student_layers)

    def check_model(self, name: str, model: type[Model], backbone: Backbone) -> None:  # noqa: ARG002
        """Only a student has targets to search; the encoder's final layer is there for all."""
        if not self._uses_final and not issubclass(model, Student):
            raise PluginError(
                f"The stage `memory` searches the student's targets, and '{name}' has none: set `features: final`."
            )

    def student_matters(self, backbone: Backbone) -> bool:  # noqa: ARG002
        """Whether the student's teacher maps are what is searched."""
        return not self._uses_final

    @property
    def _uses_final(self) -> bool:
        return self.options.features == "final"

    def pooling(self, backbone: Backbone) -> int:
        """Side of the window that teacher maps are averaged over before the search."""
        return self.options.pooling or (1 if backbone.family == "vit" else 3)

    def run(self, context: StageContext) -> None:
        """Score the training images class by class."""
        maps: list[Tensor | None] = [None] * len(context.data.train)
        pool: list[int] = []
        with context.reporter.bar("memory", len(maps)) as bar:
            for index in range(len(context.data.class_names)):
                pool += self._score_class(context, index, maps, bar)
        whole = torch.stack([m for m in maps if m is not None])
        context.output.write_tensors("scores", {"maps": whole, "candidates": torch.tensor(pool)})
        context.output.info.update(distance=self.options.distance)

    def _score_class(self, context: StageContext, index: int, maps: list[Tensor | None], bar: ProgressBar) -> list[int]:
        """Fill in the maps of a class's training images; returns the candidates. Its memory is gone on return."""
        own = _positions(context, index)
        search = self._search(context, index, own)
        if len(search.candidates) < len(own):
            context.reporter.say(
                f"The memories of the class '{context.data.class_names[index]}' are drawn from "
                f"{len(search.candidates)} of its {len(own)} images (max_images)."
            )
        for position, found in search.score_all(context.runtime.side_by_side, self._others(context, own, search)):
            maps[own[position]] = found
            bar.advance()
        return [own[i] for i in search.candidates]

    def _search(self, context: StageContext, index: int, own: Sequence[int]) -> ClassMemory:
        # By name, not by number: a class draws the same banks whichever other classes there are.
        seed = derive_seed(context.seed, "memory", context.data.class_names[index])
        candidates = draw_candidates(self.options, len(own), seed)
        vectors, grid = self.patch_vectors(context, [context.data.train[own[i]] for i in candidates])
        contents = [context.data.train[i].digest for i in own]
        return ClassMemory(self.options, vectors, grid, seed, _is_coarse(context), candidates, contents)

    def _others(self, context: StageContext, own: Sequence[int], search: ClassMemory) -> Iterator[Images]:
        """The class's images that are no candidates, some at a time: each is needed once, so that none is kept."""
        others = sorted(set(range(len(own))) - set(search.candidates))
        if not others:
            return
        # Each thread gets as many as any other.
        step = math.ceil(READ_IMAGES / context.runtime.threads) * context.runtime.threads
        start = 0
        for vectors, _ in self._read_vectors(context, [context.data.train[own[i]] for i in others], step):
            yield others[start : start + len(vectors)], vectors
            start += len(vectors)

    def estimate_seconds(self, context: StageContext) -> float:
        """What a pair of images takes in a timed search, times the number of pairs, and reading the vectors."""
        counts = _class_counts(context)
        few = probes(context, READ_IMAGES)
        reading = seconds_of(lambda: self.patch_vectors(context, few)) / READ_IMAGES
        vectors, grid = self.patch_vectors(context, few)
        candidates = draw_candidates(self.options, READ_IMAGES, 0)
        others = [i for i in range(READ_IMAGES) if i not in candidates]
        memory = ClassMemory(self.options, vectors[candidates], grid, 0, _is_coarse(context), candidates)
        rest = [(others, vectors[others])] if others else []
        searching = seconds_of(lambda: list(memory.score_all(context.runtime.side_by_side, rest)))
        pair = searching / image_pairs([READ_IMAGES], self.options.max_images)
        return image_pairs(counts, self.options.max_images) * pair + sum(counts) * reading

    def estimate_bytes(self, context: StageContext) -> int:
        """The patch vectors of the largest class's candidates, and what waits for its turn in the search.

        With `max_images` also what it takes to score the other images: an allocator keeps what waited before. A pool of
        patches is searched image by image, which takes the same.
        """
        most = max(_class_counts(context))
        candidates, patches, channels = self._searched(context, most)
        held = memory_bytes(candidates, patches, channels)
        each = candidates < most or self.options.level == "patch"
        return held + (self._scoring(context, candidates, patches, channels) if each else 0)

    def scorer_bytes(self, context: StageContext) -> int:
        """The patch vectors of the largest class's candidates, and what it takes to score images against them."""
        shape = self._searched(context, max(_class_counts(context)))
        return math.prod(shape) * torch.float32.itemsize + self._scoring(context, *shape)

    def _searched(self, context: StageContext, count: int) -> tuple[int, int, int]:
        """The vectors [k, P, C] that a class of `count` images keeps."""
        vectors, _ = self.patch_vectors(context, probes(context, 1))
        return min(count, self.options.max_images or count), vectors.shape[1], vectors.shape[2]

    def _scoring(self, context: StageContext, candidates: int, patches: int, channels: int) -> int:
        at_once = context.runtime.threads if context.runtime.device.type == "cpu" else 1
        pooled = self.options.level == "patch"
        copied = channels * torch.float32.itemsize if pooled else copied_bytes(channels, _is_coarse(context))
        return scoring_bytes(candidates, patches, copied, at_once)

    def patch_vectors(self, context: StageContext, samples: Sequence[Sample]) -> tuple[Tensor, tuple[int, int]]:
        """Unit vectors of all patches [n, H*W, C] float32 and the grid (H, W).

        Every group is averaged over its neighbourhood, brought to one grid (finer ones averaged, coarser
        ones upsampled bilinearly) and
        normalised per patch; the groups are put side by side and scaled so that the product of two
        vectors is the mean over groups of their cosines.
        """
        whole, grid, start = torch.empty(0), (0, 0), 0
        for vectors, found in self._read_vectors(context, samples, READ_IMAGES):
            grid = found
            if start == 0:  # joining blocks at the end would need the memory twice
                whole = vectors.new_empty(len(samples), *vectors.shape[1:])
            whole[start : start + len(vectors)] = vectors
            start += len(vectors)
        return whole, grid

    def _read_vectors(
        self, context: StageContext, samples: Sequence[Sample], step: int
    ) -> Iterator[tuple[Tensor, tuple[int, int]]]:
        """Unit vectors of `step` samples at a time and the grid, see `patch_vectors`."""
        layers = self.layers_needed(context.backbone, context.student_layers())
        student = self.teacher(context)
        batches = (samples[i : i + step] for i in range(0, len(samples), step))
        for _, features in context.read_batches(batches, layers):
            yield self.vectors_of(features, student, context.backbone)

    def teacher(self, context: StageContext) -> Student | None:
        """The student whose teacher maps are searched; None where it is the encoder's final layer."""
        return None if self._uses_final else context.within(context.partitions[0]).new_student("memory")

    def vectors_of(
        self, features: Sequence[Tensor], student: Student | None, backbone: Backbone
    ) -> tuple[Tensor, tuple[int, int]]:
        """Feature maps of some images -> their unit vectors [B, H*W, C] and the grid (H, W)."""
        groups = features if student is None else student.targets(features)
        grid = memory_grid(groups, self.options.grid)
        return patch_vectors_of(groups, grid, self.pooling(backbone)), grid

    def scorer(self, context: StageContext, artifact: Artifact) -> Scorer:
        """Scores patches of any image against the memories of its class."""
        return MemoryScorer(self, context, artifact)


def _positions(context: StageContext, index: int) -> list[int]:
    """Where a class's images stand among the training images."""
    return [i for i, sample in enumerate(context.data.train) if sample.class_index == index]


def _is_coarse(context: StageContext) -> bool:
    return context.runtime.precision == "bf16"


def _class_counts(context: StageContext) -> list[int]:
    """Training images of each class."""
    return [sum(s.class_index == c for s in context.data.train) for c in range(len(context.data.class_names))]


class MemoryScorer(Scorer):
    """Scores unseen images by the memory alone, against all candidates.

    In the stored scores of the training images none serves itself unless it may; `scores` takes every image for unseen.
    """

    def __init__(self, stage: Memory, context: StageContext, artifact: Artifact) -> None:
        self._stage, self._context = stage, context.without_weights()
        self.layers = stage.layers_needed(context.backbone, context.student_layers())
        self._student = stage.teacher(self._context)
        self._memories: dict[int, ClassMemory] = {}
        self._training_maps = artifact.tensors("scores")["maps"]

    def training_scores(self) -> Scores:
        """The stored score maps of the training images, float32 [n, H, W]."""
        return Scores([self._training_maps])

    def scores(self, features: Sequence[Tensor], classes: Tensor) -> Scores:
        """One group: the memory scores [B, H, W]."""
        vectors, _ = self._stage.vectors_of(features, self._student, self._context.backbone)
        wanted = [int(index) for index in classes.tolist()]
        # An evaluation goes class by class: no memory but those of this batch is held.
        self._memories = {index: memory for index, memory in self._memories.items() if index in wanted}
        memories = [self._memory(index) for index in wanted]
        for memory in memories:
            memory.prepare()

        def score(place: int) -> Tensor:
            return memories[place].score(vectors[place], None)

        return Scores([torch.stack(list(self._context.runtime.side_by_side(score, range(len(memories)))))])

    def _memory(self, index: int) -> ClassMemory:
        if index not in self._memories:
            own = _positions(self._context, index)
            self._memories[index] = self._stage._search(self._context, index, own)
        return self._memories[index]
