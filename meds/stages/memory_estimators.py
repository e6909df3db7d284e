"""How image-by-image nearest-neighbour distances become memory scores: closed form and bootstrap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

NEGLIGIBLE_MASS = 1e-6


def bank_size(ratio: float, count: int, rounding: Literal["round", "ceil"]) -> int:
    """Candidates in one bank: ratio x count, rounded, at least 1 and at most `count`."""
    exact = ratio * count
    # A product such as 0.1 * 30 lies a hair above the whole number it stands for.
    size = math.ceil(exact - 1e-9) if rounding == "ceil" else round(exact)
    return min(max(1, size), count)


@lru_cache(maxsize=8)
def order_weights(count: int, size: int, replacement: bool = False) -> Tensor:
    """Probability that the i-th nearest of `count` candidates is the nearest one in a random bank.

    Without replacement w_1 = size/count and w_{i+1} = w_i (count - i - size + 1) / (count - i), which
    is C(count - i, size - 1) / C(count, size); with replacement w_i = (1 - (i-1)/count)^size -
    (1 - i/count)^size. Cut where the mass left is below 1e-6 and scaled to sum 1. Returns float64 [K].
    """
    if replacement:
        left = (1.0 - np.arange(count + 1) / count) ** size
        weights = left[:-1] - left[1:]
    else:
        steps = np.arange(1, count - size + 1)
        factors = (count - steps - size + 1) / (count - steps)
        weights = size / count * np.concatenate([[1.0], np.cumprod(factors)])
    enough = int(np.searchsorted(np.cumsum(weights), 1.0 - NEGLIGIBLE_MASS)) + 1
    kept = weights[: min(enough, len(weights))]
    return torch.from_numpy(kept / kept.sum())


def leading(weights: Tensor, mass: float) -> int:
    """How many of the first weights [K] hold at least `mass` of their sum."""
    found = int(torch.searchsorted(weights.cumsum(0), mass * float(weights.sum())))
    return min(found + 1, len(weights))


def exact_scores(nearest: Tensor, weights: Tensor) -> Tensor:
    """The mean nearest distance over all banks: ascending distances [Q, K] and weights [K] -> [Q] (sec. 4.1)."""
    return nearest @ weights.to(nearest)


@lru_cache(maxsize=8)
def draw_banks(count: int, size: int, banks: int, replacement: bool, seed: int) -> Tensor:
    """`banks` random banks of `size` of `count` candidates, int64 [banks, size]."""
    generator = np.random.default_rng(seed)
    rows = [generator.choice(count, size, replace=replacement) for _ in range(banks)]
    return torch.from_numpy(np.stack(rows)).long()


def bootstrap_scores(distances: Tensor, banks: Tensor) -> Tensor:
    """Mean over banks of the nearest distance: distances [Q, n], banks of columns int64 [B, m] -> [Q]."""
    columns = banks.to(distances.device)
    total = torch.zeros(len(distances), dtype=torch.float64, device=distances.device)
    for bank in columns:
        total += distances[:, bank].amin(dim=1)
    return (total / len(columns)).float()


def passing_over(banks: Tensor, excluded: Sequence[int], total: int, patches: int = 1) -> Tensor:
    """Banks that number what is left of a pool of `total` images of `patches` each, numbered as in the whole pool.

    Each is then a uniform subset of what may serve the image, and the mean over banks tends to that of `exact`.
    """
    if not excluded:
        return banks
    left = torch.ones(total, patches, dtype=torch.bool)
    left[list(excluded)] = False
    return left.flatten().nonzero().flatten()[banks]
