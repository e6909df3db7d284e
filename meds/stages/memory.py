"""Stage memory: scores every training patch by its mean distance to sparse random memories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from meds.core.backbone import Backbone
from meds.core.data import Sample
from meds.core.errors import PluginError
from meds.core.model import Model, Scores
from meds.core.scoring import from_cosine
from meds.core.seeds import derive_seed
from meds.core.stage import Scorer, Stage, StageContext
from meds.core.store import Artifact
from meds.core.student import Student
from meds.core.timing import probes, seconds_of
from meds.core.workload import image_pairs, memory_bytes
from meds.stages import memory_estimators as estimators
from meds.stages.nearest import PatchIndex, best_patches
from meds.stages.options import MemoryOptions

READ_IMAGES = 32
PROBE_QUERIES = 8
PROBE_BYTES = 2**28
# Neighbours that carry so much of a score are compared exactly; what is left may be off by 0.4 % of itself.
EXACT_MASS = 0.99


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
        if self._uses_final(backbone):
            return (backbone.final_layer,)
        return tuple(student_layers)

    def check_model(self, name: str, model: type[Model], backbone: Backbone) -> None:
        """Only a student has targets to search; the encoder's final layer is there for all."""
        if not self._uses_final(backbone) and not issubclass(model, Student):
            raise PluginError(
                f"The stage `memory` searches the student's targets, and '{name}' has none: set `features: final`."
            )

    def student_matters(self, backbone: Backbone) -> bool:
        """Whether the student's teacher maps are what is searched."""
        return not self._uses_final(backbone)

    def _uses_final(self, backbone: Backbone) -> bool:
        if self.options.features == "auto":
            return backbone.family == "vit"
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
                own = [i for i, sample in enumerate(context.data.train) if sample.class_index == index]
                search = self._search(context, index, own)
                pool += [own[i] for i in search.candidates]
                if len(search.candidates) < len(own):
                    context.reporter.say(
                        f"The memories of the class '{context.data.class_names[index]}' are drawn from "
                        f"{len(search.candidates)} of its {len(own)} images (max_images)."
                    )
                scored = context.runtime.side_by_side(search.score_own, range(len(own)))
                for position, found in zip(own, scored, strict=True):
                    maps[position] = found
                    bar.advance()
        whole = torch.stack([m for m in maps if m is not None])
        context.output.write_tensors("scores", {"maps": whole, "candidates": torch.tensor(pool)})
        context.output.info.update(distance=self.options.distance)

    def _search(self, context: StageContext, index: int, own: Sequence[int]) -> ClassMemory:
        samples = [context.data.train[i] for i in own]
        vectors, grid = self.patch_vectors(context, samples)
        coarse = context.runtime.precision == "bf16"
        # By name, not by number: a class draws the same banks whichever other classes there are.
        seed = derive_seed(context.seed, "memory", context.data.class_names[index])
        return ClassMemory(self.options, vectors, grid, seed, coarse)

    def estimate_seconds(self, context: StageContext) -> float:
        """What a pair of images takes in a timed search, times the number of pairs, and reading the vectors."""
        counts = _class_counts(context)
        few = probes(context, READ_IMAGES)
        reading = seconds_of(lambda: self.patch_vectors(context, few)) / READ_IMAGES
        vectors, grid = self.patch_vectors(context, few)
        largest = max(READ_IMAGES, PROBE_BYTES // memory_bytes(1, *vectors.shape[1:]))
        images = min(largest, max(min(count, self.options.max_images or count) for count in counts))
        pool = vectors.repeat(-(-images // READ_IMAGES), 1, 1)[:images]
        memory = ClassMemory(self.options, pool, grid, 0, context.runtime.precision == "bf16")
        queries = range(min(PROBE_QUERIES, images))
        searching = seconds_of(lambda: list(context.runtime.side_by_side(memory.score_own, queries)))
        pairs = image_pairs(counts, self.options.max_images)
        return pairs * searching / len(queries) / images + sum(counts) * reading

    def estimate_bytes(self, context: StageContext) -> int:
        """The patch vectors of the largest class."""
        vectors, _ = self.patch_vectors(context, probes(context, 1))
        return memory_bytes(max(_class_counts(context)), *vectors.shape[1:])

    def patch_vectors(self, context: StageContext, samples: Sequence[Sample]) -> tuple[Tensor, tuple[int, int]]:
        """Unit vectors of all patches [n, H*W, C] float32 and the grid (H, W).

        Every group is averaged over its neighbourhood, brought to one grid (finer ones averaged, coarser
        ones upsampled bilinearly) and
        normalised per patch; the groups are put side by side and scaled so that the product of two
        vectors is the mean over groups of their cosines.
        """
        layers = self.layers_needed(context.backbone, context.student_layers())
        student = None if self._uses_final(context.backbone) else context.new_student("memory")
        whole, grid = torch.empty(0), (0, 0)
        for start in range(0, len(samples), READ_IMAGES):
            features = context.read_features(samples[start : start + READ_IMAGES], layers)
            groups = features if student is None else student.targets(features)
            grid = _memory_grid(groups, self.options.grid)
            vectors = patch_vectors_of(groups, grid, self.pooling(context.backbone))
            if start == 0:  # joining blocks at the end would need the memory twice
                whole = vectors.new_empty(len(samples), *vectors.shape[1:])
            whole[start : start + len(vectors)] = vectors
        return whole, grid

    def scorer(self, context: StageContext, artifact: Artifact) -> Scorer:
        """Scores patches of any image against the memories of its class."""
        return MemoryScorer(self, context, artifact)


def _class_counts(context: StageContext) -> list[int]:
    """Training images of each class."""
    return [sum(s.class_index == c for s in context.data.train) for c in range(len(context.data.class_names))]


def _memory_grid(groups: Sequence[Tensor], largest: int) -> tuple[int, int]:
    height, width = max(((g.shape[2], g.shape[3]) for g in groups), key=lambda size: size[0] * size[1])
    return min(height, largest), min(width, largest)


def patch_vectors_of(groups: Sequence[Tensor], grid: tuple[int, int], pooling: int = 1) -> Tensor:
    """Teacher maps [B, C_i, H_i, W_i] -> unit vectors [B, H*W, sum of C_i] float32 on one grid."""
    parts = []
    for group in groups:
        if pooling > 1:
            group = F.avg_pool2d(group, pooling, stride=1, padding=pooling // 2, count_include_pad=False)
        height, width = group.shape[-2:]
        if height > grid[0] or width > grid[1]:
            group = F.adaptive_avg_pool2d(group, grid)
        elif (height, width) != grid:
            group = F.interpolate(group, size=grid, mode="bilinear", align_corners=False)
        parts.append(F.normalize(group.float(), dim=1))
    joined: Tensor = torch.cat(parts, dim=1) / math.sqrt(len(parts))
    return joined.flatten(2).transpose(1, 2).contiguous()


class ClassMemory:
    """The training patches of one class and the estimator that scores queries against them."""

    def __init__(self, options: MemoryOptions, vectors: Tensor, grid: tuple[int, int], seed: int, coarse: bool) -> None:
        self.options, self.vectors, self.grid, self.seed = options, vectors, grid, seed
        count = len(vectors)
        self.candidates = list(range(count))
        if options.max_images is not None and options.max_images < count:
            chosen = np.random.default_rng(seed).choice(count, options.max_images, replace=False)
            self.candidates = sorted(int(i) for i in chosen)
        self._columns = {position: column for column, position in enumerate(self.candidates)}
        self._pool = vectors if len(self.candidates) == count else vectors[self.candidates].contiguous()
        self._index = PatchIndex(self._pool, coarse)

    def score(self, query: Tensor, own: int | None) -> Tensor:
        """Score map [H, W] of an image's vectors [H*W, C]; `own` is its position among the training images."""
        excluded = None if self.options.self_match or own is None else self._columns.get(own)
        scores = self._by_patch(query, excluded) if self.options.level == "patch" else self._by_image(query, excluded)
        return scores.float().reshape(self.grid).cpu()

    def score_own(self, position: int) -> Tensor:
        """Score map [H, W] of the training image at this position."""
        return self.score(self.vectors[position], position)

    def _by_image(self, query: Tensor, excluded: int | None) -> Tensor:
        total, count = len(self._pool), len(self._pool) - (excluded is not None)
        if self.options.estimator == "bootstrap":
            distances = from_cosine(self._index.every_image(query), self.options.distance)
            return estimators.bootstrap_scores(distances, self._banks(total, count), excluded)
        weights = self._weights(total, count)
        cosines = self._index.best_images(query, len(weights), excluded, estimators.leading(weights, EXACT_MASS))
        return estimators.exact_scores(from_cosine(cosines, self.options.distance), weights)

    def _by_patch(self, query: Tensor, excluded: int | None) -> Tensor:
        pool = self._pool[estimators.without(range(len(self._pool)), excluded)].flatten(0, 1)
        if self.options.estimator == "bootstrap":
            banks = self._banks(len(pool), len(pool))
            nearest = [from_cosine((query @ pool[bank].T).amax(dim=1), self.options.distance) for bank in banks]
            return torch.stack(nearest).mean(dim=0)
        weights = self._weights(len(pool), len(pool))
        cosines = best_patches(query, pool, len(weights))
        return estimators.exact_scores(from_cosine(cosines, self.options.distance), weights)

    def _weights(self, total: int, count: int) -> Tensor:
        return estimators.order_weights(count, self._size(total, count), self.options.replacement)

    def _banks(self, total: int, count: int) -> Tensor:
        size = self._size(total, count)
        return estimators.draw_banks(count, size, self.options.banks, self.options.replacement, self.seed)

    def _size(self, total: int, count: int) -> int:
        """Candidates in a bank: the ratio of `total`, the class's own image included, out of `count` candidates."""
        return min(estimators.bank_size(self.options.ratio, total, self.options.bank_size), count)


class MemoryScorer(Scorer):
    """Scores unseen images by the memory alone; a training image never serves itself unless it may."""

    def __init__(self, stage: Memory, context: StageContext, artifact: Artifact) -> None:
        self._stage, self._context = stage, context
        self.layers = stage.layers_needed(context.backbone, context.student_layers())
        self._student: Any = None
        if stage.student_matters(context.backbone):
            self._student = context.new_student("memory")
        self._memories: dict[int, ClassMemory] = {}
        self._training_maps = artifact.tensors("scores")["maps"]

    def training_scores(self) -> Scores:
        """The stored score maps of the training images, float32 [n, H, W]."""
        return Scores([self._training_maps])

    def scores(self, features: Sequence[Tensor], classes: Tensor) -> Scores:
        """One group: the memory scores [B, H, W]."""
        groups = features if self._student is None else self._student.targets(features)
        grid = _memory_grid(groups, self._stage.options.grid)
        vectors = patch_vectors_of(groups, grid, self._stage.pooling(self._context.backbone))
        memories = [self._memory(int(index)) for index in classes.tolist()]

        def score(place: int) -> Tensor:
            return memories[place].score(vectors[place], None)

        return Scores([torch.stack(list(self._context.runtime.side_by_side(score, range(len(memories)))))])

    def _memory(self, index: int) -> ClassMemory:
        if index not in self._memories:
            own = [i for i, s in enumerate(self._context.data.train) if s.class_index == index]
            self._memories[index] = self._stage._search(self._context, index, own)
        return self._memories[index]
