"""Attention whose cost is linear in the number of tokens, with its gradient written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _LinearAttention(torch.autograd.Function):
    """Forward and gradient of `linear_attention`.

    Autograd over the formula makes the same numbers in twice the time: it keeps and passes over every intermediate
    result, and torch's ELU is not vectorised on a CPU.
    """

    @staticmethod
    def forward(context: Any, qkv: Tensor, heads: int, epsilon: float) -> Tensor:
        batch, count, width = qkv.shape
        parts = qkv.view(batch, count, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4).contiguous()
        raw, value = parts[:2], parts[2]
        # elu(x) + 1: exp(x) below 0 and x + 1 above.
        features = raw.clamp(max=0).exp_().add_(raw.clamp(min=0))
        query, key = features.unbind(0)
        with torch.autocast(qkv.device.type, enabled=False):
            state = key.transpose(2, 3) @ value
            # Rounded to half precision, the sum over all tokens would be wrong in the same way for all of them.
            exact = torch.promote_types(qkv.dtype, torch.float32)
            sums = key.sum(dim=2, keepdim=True, dtype=exact)
            total = (query.to(exact) @ sums.transpose(2, 3)).add_(epsilon)
            output = (query @ state).div_(total)
        context.save_for_backward(features, value, state, sums, total, output)
        return output.transpose(1, 2).reshape(batch, count, -1)

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        features, value, state, sums, total, output = context.saved_tensors
        query, key = features.unbind(0)
        batch, heads, count, width = value.shape
        result = torch.empty(3, *value.shape, dtype=value.dtype, device=value.device)
        with torch.autocast(value.device.type, enabled=False):
            # A clone, because what comes in may be laid out like this already, and is not ours to divide in place.
            gradient = gradients[0].view(batch, count, heads, width).transpose(1, 2)
            gradient = gradient.clone(memory_format=torch.contiguous_format).div_(total)
            of_total = (gradient * output).sum(dim=3, keepdim=True).neg_()
            of_state = query.transpose(2, 3) @ gradient
            torch.matmul(gradient, state.transpose(2, 3), out=result[0])
            result[0].addcmul_(of_total, sums.to(value.dtype))
            torch.matmul(value, of_state.transpose(2, 3), out=result[1])
            result[1].add_(of_total.transpose(2, 3) @ query)
            torch.matmul(key, of_state, out=result[2])
            # The slope of elu(x) + 1 is its value below 0 and 1 above.
            result[:2].mul_(features.clamp(max=1))
        return result.permute(1, 3, 0, 2, 4).reshape(batch, count, -1), None, None


def linear_attention(qkv: Tensor, heads: int, epsilon: float) -> Tensor:
    """q' (k'^T v) / (q' sum k' + epsilon) for every head, with q' = elu(q) + 1 and k' = elu(k) + 1.

    `qkv` [B, N, 3 C] holds queries, keys and values side by side; the result is [B, N, C] in its dtype. The sum in
    the denominator runs over the tokens. Gradients of gradients are not offered.
    """
    result: Tensor = _LinearAttention.apply(qkv, heads, epsilon)
    return result
