"""Scores images batch by batch with a trained scorer, and keeps of each what an evaluation stores or measures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor

from meds.core import scoring
from meds.core.data import Sample
from meds.core.errors import PluginError
from meds.core.feature_cache import as_cached
from meds.core.model import EvaluationDefaults, Scores
from meds.core.reporter import ProgressBar
from meds.core.selection import robust_maximum
from meds.core.stage import Scorer, StageContext


class ImageScores:
    """Scores of n images in their order, filled by `score`; on the CPU.

    `images` float32 [n] are image scores, `robust` float32 [n] what `robust` makes of the patch scores, `peaks` and
    `middles` float32 [n] the largest and the median value of the smoothed maps, `patches` float16 [n, H, W] the patch
    maps (float32 where a value does not fit into half precision).
    What is kept of an image is small: whole anomaly maps only of those images that are asked for.
    """

    def __init__(
        self,
        context: StageContext,
        scorer: Scorer,
        samples: Sequence[Sample],
        how: EvaluationDefaults,
        batch_size: int,
        known: Scores | None = None,
        robust: Callable[[Tensor], Tensor] = robust_maximum,
    ) -> None:
        self.samples, self.how, self._robust_maximum = samples, how, robust
        self._context, self._scorer, self._batch_size, self._known = context, scorer, batch_size, known
        self.images, self.robust, self.peaks, self.middles = (torch.zeros(len(samples)) for _ in range(4))
        self.patches = torch.zeros(0, dtype=torch.float16)

    def score(self, rows: Sequence[int], bar: ProgressBar, keep: Collection[int] = ()) -> Tensor:
        """Score the images at `rows`; the smoothed maps float32 [k, S, S] of the k among them that are in `keep`."""
        wanted, size, place = set(keep), self.how.map_size, 0
        maps = torch.zeros(sum(row in wanted for row in rows), size, size)
        batches = [list(rows[i : i + self._batch_size]) for i in range(0, len(rows), self._batch_size)]
        for chosen, scores in zip(batches, self._scored(batches), strict=True):
            smoothed = scoring.smooth(scoring.pixel_map(scores.maps, self.how), self.how)
            self._note(chosen, scores, smoothed)
            kept = [i for i, row in enumerate(chosen) if row in wanted]
            maps[place : place + len(kept)] = smoothed[kept].cpu()
            place += len(kept)
            bar.advance(len(chosen))
        return maps

    def _scored(self, batches: Sequence[list[int]]) -> Iterator[Scores]:
        if self._known is None:
            chosen = ([self.samples[row] for row in rows] for rows in batches)
            for samples, features in self._context.read_batches(chosen, self._scorer.layers):
                yield self._scorer.scores(features, self._context.class_tensor(samples))
        else:
            yield from map(self._known.rows, batches)

    def _check(self, rows: list[int]) -> None:
        for row in rows:
            if not torch.isfinite(self.images[row]):
                path, name = self.samples[row].record.path, self._context.student_class.__name__
                raise PluginError(f"{path}: its score is {self.images[row]:g}, which cannot be ranked; see {name}.")

    def _note(self, rows: list[int], scores: Scores, smoothed: Tensor) -> None:
        patches = scoring.mean_over_groups(scores.maps)
        if not len(self.patches):
            self.patches = torch.zeros(len(self.samples), *patches.shape[1:], dtype=torch.float16)
        kept = as_cached(patches.cpu())
        if kept.dtype != self.patches.dtype:
            self.patches = self.patches.float()
        self.patches[rows] = kept.to(self.patches.dtype)
        self.robust[rows] = self._robust_maximum(patches).cpu()
        self.images[rows] = scoring.model_scores(scores, smoothed, self.how).cpu()
        self._check(rows)
        self.peaks[rows] = smoothed.flatten(1).amax(dim=1).cpu()
        self.middles[rows] = smoothed.flatten(1).median(dim=1).values.cpu()
