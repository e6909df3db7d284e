"""Linear attention against the formula, token by token, and its written-out gradient against autograd's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from meds.plugins.students.linear_attention import linear_attention


def formula(qkv: Tensor, heads: int, epsilon: float) -> Tensor:
    """Every image, head and token by itself."""
    rows = []
    for image in qkv:
        query, key, value = image.chunk(3, dim=1)
        parts = []
        for head in range(heads):
            one = slice(head * query.shape[1] // heads, (head + 1) * query.shape[1] // heads)
            q, k, v = F.elu(query[:, one]) + 1, F.elu(key[:, one]) + 1, value[:, one]
            weights = q @ k.T
            parts.append((weights @ v) / (weights.sum(dim=1, keepdim=True) + epsilon))
        rows.append(torch.cat(parts, dim=1))
    return torch.stack(rows)


@pytest.mark.parametrize(("batch", "count", "width", "heads"), [(2, 17, 24, 4), (1, 1, 8, 1), (3, 5, 12, 3)])
def test_values_and_gradients_are_the_formula_s(batch: int, count: int, width: int, heads: int) -> None:
    torch.manual_seed(0)
    ours = (2 * torch.randn(batch, count, 3 * width, dtype=torch.float64)).requires_grad_()
    plain = ours.detach().clone().requires_grad_()
    weights = torch.randn(batch, count, width, dtype=torch.float64)
    found, expected = linear_attention(ours, heads, 1e-6), formula(plain, heads, 1e-6)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("count", "heads"), [(5, 1), (1, 2), (5, 2)])
def test_the_incoming_gradient_is_left_as_it_is(count: int, heads: int) -> None:
    qkv = torch.randn(2, count, 24, generator=torch.Generator().manual_seed(3), requires_grad=True)
    incoming = torch.ones(2, count, 8)
    linear_attention(qkv, heads, 1e-6).backward(incoming)
    assert torch.equal(incoming, torch.ones(2, count, 8))


def test_gradient_against_finite_differences() -> None:
    torch.manual_seed(1)
    qkv = torch.randn(2, 5, 24, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: linear_attention(values, 2, 1e-6), (qkv,))


def test_half_precision_is_kept_and_near() -> None:
    torch.manual_seed(2)
    exact = torch.randn(4, 50, 96)
    half = exact.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = linear_attention(half, 4, 1e-6)
    assert found.dtype == torch.bfloat16
    found.float().square().sum().backward()
    assert half.grad is not None
    whole = half.detach().float().requires_grad_()
    expected = formula(whole, 4, 1e-6)
    expected.square().sum().backward()
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)
    assert (half.grad.float() - whole.grad).norm() < 0.02 * whole.grad.norm()
