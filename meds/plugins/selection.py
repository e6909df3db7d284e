"""The paper's selection rule: median plus k times the median absolute deviation (eq. 12, 13)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from meds.core.hookspecs import hookimpl
from meds.core.registry import Options, Plugin
from meds.core.selection import SelectionRule

if TYPE_CHECKING:
    from torch import Tensor


class MedianMadOptions(Options):
    """Threshold = median + k_t x MAD, MAD = median |score - median|, without the factor 1.4826."""

    median: Literal["lower", "middle"] = Field(
        default="lower",
        description="Median of an even count: the lower of the two middle values, or their mean.",
    )


class MedianMad(SelectionRule):
    """Selects the images of a class whose score lies below median + factor x MAD."""

    options: MedianMadOptions

    def threshold(self, scores: Tensor, factor: float) -> float:
        """tau for the scores [n] of one class; `factor` is k_t."""
        middle = self._median(scores)
        return float(middle + factor * self._median((scores - middle).abs()))

    def kept_at_first(self, count: int) -> int:
        """What lies below the median."""
        return (count - 1) // 2 if self.options.median == "lower" else count // 2

    def _median(self, values: Tensor) -> Tensor:
        ordered = values.sort().values
        lower = ordered[(len(ordered) - 1) // 2]
        return lower if self.options.median == "lower" else (lower + ordered[len(ordered) // 2]) / 2


@hookimpl
def meds_selection_rules() -> Sequence[Plugin]:
    """The built-in selection rule."""
    return [
        Plugin(
            "median-mad",
            MedianMadOptions,
            "meds.plugins.selection:MedianMad",
            "Scores below median + k x median absolute deviation, by class.",
            {"paper": {"median": "middle"}, "released": {"median": "lower"}},
        )
    ]
