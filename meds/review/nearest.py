"""Finds the normal training patch that is most like the hottest patch of an image, in the run's cached features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock

import torch
import torch.nn.functional as F
from torch import Tensor

from meds.core.errors import MedsError
from meds.core.feature_cache import SHARD_IMAGES
from meds.core.finished_run import FinishedRun
from meds.core.scoring import resize_map
from meds.review.ranking import Item
from meds.review.session import Review

Patch = tuple[int, int]


@dataclass(frozen=True)
class Neighbour:
    """The normal image that holds the nearest patch, the patch's row and column, and the distance, 0 to 2."""

    item: Item
    patch: Patch
    distance: float


@dataclass(frozen=True)
class Missing:
    """Why there is no neighbour to show: one sentence."""

    reason: str


SUPERSEDED = Missing("Another image was opened in the meantime; open this one again to see its nearest normal patch.")


class NearestNormal:
    """Answers are computed when they are first asked for, one at a time, and kept.

    A search is given up when another is asked for: somebody who judges fast does not wait for images that are gone.
    """

    def __init__(self, run: FinishedRun, review: Review) -> None:
        self._run, self._review = run, review
        self._maps: Tensor = run.evaluation.tensors("maps")["train"]
        self._known: dict[str, Neighbour] = {}
        self._lock = Lock()
        self._ticket = 0

    @property
    def grid(self) -> Patch:
        """Rows and columns of the patches of an image."""
        return int(self._maps.shape[1]), int(self._maps.shape[2])

    def hottest(self, item: Item) -> Patch:
        """Row and column of the patch with the largest score."""
        row, column = divmod(int(self._maps[item.position].float().argmax()), self.grid[1])
        return row, column

    def of(self, item: Item) -> Neighbour | Missing:
        """The nearest patch among the selected images of the same class that nobody has called a defect."""
        known = self._known.get(item.digest)
        if known is not None and self._are_normal([known.item]):
            return known
        self._ticket = ticket = self._ticket + 1
        with self._lock:
            try:
                found = self._search(item, ticket)
            except MedsError as error:
                return Missing(f"The nearest normal patch cannot be shown: {error}")
            if isinstance(found, Neighbour):
                self._known[item.digest] = found
            return found

    @cached_property
    def _layers(self) -> tuple[str, ...]:
        return self._run.pipeline.student_layers

    def _are_normal(self, items: Sequence[Item]) -> list[Item]:
        """Those that people have called normal, or that the run selected and nobody has judged."""
        standing = self._review.standing()
        verdicts = {item.digest: standing[item.digest].decision for item in items if item.digest in standing}
        return [item for item in items if verdicts.get(item.digest, "normal" if item.selected else "") == "normal"]

    def _candidates(self, item: Item) -> list[Item]:
        others = [o for o in self._review.items if o.class_name == item.class_name and o.digest != item.digest]
        normal = {other.digest: other for other in self._are_normal(others)}
        gone = set(self._run.pipeline.features.missing(normal, self._layers))
        return [other for digest, other in normal.items() if digest not in gone]

    def _search(self, item: Item, ticket: int) -> Neighbour | Missing:
        features = self._run.pipeline.features
        if features.missing([item.digest], self._layers):
            return Missing(
                "The encoder's features of this image are no longer in the cache, so the nearest normal patch cannot "
                "be shown."
            )
        candidates = self._candidates(item)
        if not candidates:
            return Missing("There is no other normal image of this class whose features are in the cache.")
        query = self._query(item)
        best = Neighbour(item, (0, 0), math.inf)
        for start in range(0, len(candidates), SHARD_IMAGES):
            if ticket != self._ticket:
                return SUPERSEDED
            part = candidates[start : start + SHARD_IMAGES]
            distances = self._distances(part, query)
            image, place = divmod(int(distances.argmin()), self.grid[0] * self.grid[1])
            found = max(0.0, float(distances.min()))
            if found < best.distance:
                best = Neighbour(part[image], divmod(place, self.grid[1]), found)
        return best

    def _query(self, item: Item) -> dict[str, Tensor]:
        """The hottest patch of an image: a unit vector [C] float32 by layer, interpolated on coarse ones.

        Maps of one row hold a transformer's class and register tokens, which belong to no patch.
        """
        row, column = self.hottest(item)
        maps = {name: self._run.pipeline.features.read([item.digest], name)[0].float() for name in self._layers}
        patches = {name: values for name, values in maps.items() if values.shape[-2] > 1} or maps
        return {n: F.normalize(resize_map(m, self.grid)[:, row, column], dim=0) for n, m in patches.items()}

    def _distances(self, items: Sequence[Item], query: Mapping[str, Tensor]) -> Tensor:
        """1 - cosine to every patch [n, H, W] float32, the mean over layers as in score maps (`scoring.score_map`)."""
        digests = [item.digest for item in items]
        distances = []
        for layer, vector in query.items():
            maps = self._run.pipeline.features.read(digests, layer).float()
            products = torch.matmul(vector, maps.flatten(2)).view(len(items), *maps.shape[-2:])
            distances.append(resize_map(1 - products / maps.norm(dim=1).clamp_min(1e-12), self.grid))
        return torch.stack(distances).mean(dim=0)
