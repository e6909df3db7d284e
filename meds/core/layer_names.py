"""Names of derived layers: the mean of several layers, and a layer on another grid.

"block2+block3" is the mean of two layers of one shape; "stride4@14" is a layer brought to a grid of
14 x 14 (bilinear, corners aligned); "stride4@14+stride8@14" is both. A derived layer is stored like any
other, so that a student which reads the mean of four layers costs the space of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from meds.core.backbone import Layer


@dataclass(frozen=True)
class Term:
    """A layer of the backbone and the side of the grid that it is brought to, None for its own."""

    base: str
    grid: int | None


def parse(name: str) -> list[Term]:
    """The terms of a name; KeyError if it is no such name."""
    terms = []
    for part in name.split("+"):
        base, at, grid = part.partition("@")
        if not base or (at and not (grid.isdigit() and int(grid))):
            raise KeyError(name)
        terms.append(Term(base, int(grid) if at else None))
    return terms


def mean_of(layers: Sequence[str]) -> str:
    """The name of the mean of some layers."""
    return "+".join(layers)


def on_grid(layer: str, side: int) -> str:
    """The name of a layer brought to a grid of `side` x `side`."""
    return f"{layer}@{side}"


def describe(name: str, layer: Callable[[str], Layer]) -> Layer:
    """The derived layer's shape; KeyError for an unknown layer or terms of different shapes."""
    parts = []
    for term in parse(name):
        base = layer(term.base)
        parts.append(base if term.grid is None else replace(base, height=term.grid, width=term.grid))
    if len({(part.channels, part.height, part.width) for part in parts}) > 1:
        raise KeyError(name)
    return replace(parts[0], name=name, signed=any(part.signed for part in parts))


def compute(name: str, maps: Mapping[str, Tensor]) -> Tensor:
    """The derived layer [B, C, H, W] from the maps of its terms."""
    parts = [_resized(maps[term.base], term.grid) for term in parse(name)]
    if len(parts) == 1:
        return parts[0]
    total = parts[0].float()
    for part in parts[1:]:
        total = total + part.float()
    return total / len(parts)


def _resized(values: Tensor, grid: int | None) -> Tensor:
    from torch.nn import functional as F

    if grid is None or values.shape[-2:] == (grid, grid):
        return values
    return F.interpolate(values.float(), size=(grid, grid), mode="bilinear", align_corners=True)
