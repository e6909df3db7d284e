"""Learning rates as pure functions of the iteration."""

from __future__ import annotations

import math


def warm_cosine(iteration: int, total: int, base: float, final: float, warmup: int) -> float:
    """The rate of an iteration: a straight rise from 0 to `base`, then half a cosine down to `final`.

    The rise takes `warmup` iterations and ends at `base` exactly, at most a quarter of `total`.
    """
    rise = min(warmup, total // 4)
    if iteration < rise:
        return base * iteration / (rise - 1) if rise > 1 else 0.0
    if iteration >= total:
        return final
    return final + 0.5 * (base - final) * (1 + math.cos(math.pi * (iteration - rise) / (total - rise)))
