"""The least precision that teacher maps and losses are computed in."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """float64 stays, everything else becomes float32."""
    return values if values.dtype == torch.float64 else values.float()
