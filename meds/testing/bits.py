"""Equality to the bit, and what of a set of named values differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def same_bits(first: Any, second: Any) -> bool:
    """Whether two tensors, or two plain values, are equal to the bit; NaN equals NaN."""
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return bool(type(first) is type(second) and first == second)
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return torch.equal(*(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for value in (first, second)))


def difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """What differs between two sets of named values, for a sentence; empty if nothing does."""
    if first.keys() != second.keys():
        return "there is " + ", ".join(f"'{name}' in one only" for name in sorted(first.keys() ^ second.keys())[:3])
    names = [name for name in first if not same_bits(first[name], second[name])]
    if not names:
        return ""
    more = f" and {len(names) - 1} more of {len(first)}" if len(names) > 1 else ""
    return f"'{names[0]}'{more} differs"
