"""The contract of a selection rule, and the robust maximum that image scores are made of."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal

from meds.core.errors import PluginError

if TYPE_CHECKING:
    from torch import Tensor

Rounding = Literal["ceil", "floor"]
# Of float32, which scores have.
_LARGEST = 3.4028234663852886e38


class SelectionRule(ABC):
    """Decides by score which training images of one class the student may see."""

    def __init__(self, options: Any) -> None:
        self.options = options

    @abstractmethod
    def threshold(self, scores: Tensor, factor: float) -> float:
        """The threshold tau for the scores of all training images of one class, float32 [n] on the CPU.

        Images with a score strictly below it are selected. `factor` is k_t = k*t/T (paper eq. 12),
        which grows from 0 to the critical value k over the fine-tuning.
        """

    def kept_at_first(self, count: int) -> int:
        """How many of `count` images the rule keeps at iteration 0 if all scores differ; `count` if that is not known.

        A class of which it keeps too few is refused before anything is trained.
        """
        return count


def checked_threshold(rule: SelectionRule, scores: Tensor, factor: float) -> float:
    """The rule's threshold as a finite number: of an infinite one the largest (or smallest) in its place.

    Raises:
        PluginError: it is no number.
    """
    found = rule.threshold(scores, factor)
    try:
        threshold = float(found)
    except (TypeError, ValueError):
        threshold = math.nan
    if math.isnan(threshold):
        raise PluginError(
            f"The selection rule {type(rule).__name__} gave {found!r} as the threshold of {len(scores)} scores; it "
            "must be a number."
        )
    return min(max(threshold, -_LARGEST), _LARGEST)


def robust_maximum(maps: Tensor, percent: float = 1.0, rounding: Rounding = "ceil") -> Tensor:
    """Mean of the largest `percent` % of patch scores of each map: [n, H, W] -> [n] (paper sec. 4.3).

    `percent` lies above 0 and is at most 100. The count is rounded up as in the paper, or down as in the released code,
    and is at least 1.
    """
    flat = maps.reshape(maps.shape[0], -1)
    exact = percent * flat.shape[1] / 100.0
    count = math.ceil(exact) if rounding == "ceil" else math.floor(exact)
    return flat.topk(max(1, min(count, flat.shape[1])), dim=1).values.mean(dim=1)
