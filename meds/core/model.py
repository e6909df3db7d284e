"""What may stand under `student:` in a spec: the part of the contract that networks and fitted detectors share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torch import Tensor

from meds.core.backbone import Backbone, Layer
from meds.core.errors import PluginError

ImageScore = Literal["max", "top", "pooled-max", "patch-max", "own"]


@dataclass(frozen=True)
class EvaluationDefaults:
    """How a student's paper turns score maps into figures.

    Each group's map is resized to `resize` (None: `map_size` at once) with align_corners as given and
    averaged, then resized to `map_size` with align_corners=False, then smoothed. `upsampling` is "bilinear", or
    "nearest": maps keep their steps, and align_corners says nothing. `smoothing` is "none",
    "gaussian" (scipy's gaussian_filter, reflecting borders) or "gaussian5" (a 5x5 kernel with zero
    padding), with `sigma` in pixels. `image_score` is "max", the mean of the largest `top_fraction` of the
    pixels ("top"), the largest mean of a square of `pool_window` pixels a side that lies wholly on the map
    ("pooled-max"), the largest patch score before any resizing ("patch-max"), or the image score that the
    model itself gives ("own", detectors only). Masks are brought to the encoder's input by `mask_resize`, "bilinear"
    like the images or "nearest"; `mask_rule`: a resized mask pixel counts as a defect if it is over one half or if it
    is anything but zero.
    """

    map_size: int = 256
    resize: int | None = None
    align_corners: bool = True
    upsampling: Literal["bilinear", "nearest"] = "bilinear"
    smoothing: Literal["none", "gaussian", "gaussian5"] = "gaussian"
    sigma: float = 4.0
    image_score: ImageScore = "max"
    top_fraction: float = 0.01
    pool_window: int = 16
    mask_rule: Literal["half", "any"] = "half"
    mask_resize: Literal["bilinear", "nearest"] = "bilinear"

    def __post_init__(self) -> None:
        """PluginError for a value that is none of those named above."""
        for name, allowed in _choices().items():
            if getattr(self, name) not in allowed:
                raise PluginError(
                    f"EvaluationDefaults: {name} cannot be {getattr(self, name)!r}: it is one of {', '.join(allowed)}."
                )
        good = {
            "map_size": self.map_size >= 1,
            "resize": self.resize is None or self.resize >= 1,
            "sigma": self.sigma > 0,
            "top_fraction": 0 < self.top_fraction <= 1,
            "pool_window": self.pool_window >= 1,
        }
        for name in (name for name, is_good in good.items() if not is_good):
            raise PluginError(f"EvaluationDefaults: {name} cannot be {getattr(self, name)!r}.")


@cache
def _choices() -> dict[str, tuple[str, ...]]:
    """The values that stand open to choose from, by field."""
    hints = get_type_hints(EvaluationDefaults)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


@dataclass(frozen=True)
class Scores:
    """Scores of a batch: `maps` float32 [B, H_i, W_i] for each group, not negative, and image scores [B] or None."""

    maps: list[Tensor]
    images: Tensor | None = None

    def rows(self, rows: list[int]) -> Scores:
        """The scores of the images in these rows, in their order."""
        return Scores([values[rows] for values in self.maps], None if self.images is None else self.images[rows])


class Model(ABC):
    """Base of `Student` and `Detector`.

    The constructor gets the options, the teacher's layers in the order of `layers_needed`, and the class names.
    """

    options: Any
    layers: tuple[Layer, ...]
    class_names: tuple[str, ...]

    def __init__(self, options: Any, layers: Sequence[Layer], class_names: Sequence[str]) -> None:
        self.options, self.layers, self.class_names = options, tuple(layers), tuple(class_names)

    @classmethod
    @abstractmethod
    def layers_needed(cls, options: Any, backbone: Backbone) -> tuple[str, ...]:
        """Names of the backbone's layers that it reads; PluginError if the backbone cannot serve it."""

    @abstractmethod
    def evaluation_defaults(self) -> EvaluationDefaults:
        """Map size, smoothing and image score of its paper."""
