"""The weighted cosine loss against the plain formula and autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from meds.plugins.students import dinomaly_network, inp_former_network
from meds.plugins.students.global_cosine import weighted_global_cosine

WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "hard": lambda distances: dinomaly_network.mining_weights(distances, 0.5, 0.1),
    "soft": lambda distances: inp_former_network.mining_weights(distances, 3.0),
}


class Scaled(torch.autograd.Function):
    """The identity with a weighted gradient."""

    @staticmethod
    def forward(context: Any, values: Tensor, weights: Tensor) -> Tensor:
        context.save_for_backward(weights)
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * context.saved_tensors[0], None


def plainly(targets: Sequence[Tensor], outputs: Sequence[Tensor], weigh: Callable[[Tensor], Tensor]) -> Tensor:
    terms = []
    for target, output in zip(targets, outputs, strict=True):
        weights = weigh(1 - F.cosine_similarity(target, output.detach(), dim=1)[:, None])
        terms.append(
            (1 - F.cosine_similarity(target.flatten(1), Scaled.apply(output, weights).flatten(1), dim=1)).mean()
        )
    return torch.stack(terms).mean()


def maps(seed: int, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(3, 6, 4, 5, generator=generator, dtype=torch.float64).to(dtype) for _ in range(4)]
    targets, noise = drawn[:2], drawn[2:]
    return targets, [(t + n).requires_grad_() for t, n in zip(targets, noise, strict=True)]


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_value_and_gradient_are_those_of_the_formula(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    for seed in range(5):
        targets, outputs = maps(seed, dtype)
        wanted = plainly(targets, outputs, WEIGHTS[kind])
        gradients = torch.autograd.grad(3 * wanted, outputs)
        found = weighted_global_cosine(targets, outputs, WEIGHTS[kind])
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
        for ours, theirs in zip(torch.autograd.grad(3 * found, outputs), gradients, strict=True):
            scale = theirs.abs().max()
            torch.testing.assert_close(ours / scale, theirs / scale, rtol=tolerance, atol=tolerance)


def test_an_image_or_a_patch_of_zeros_gives_finite_numbers() -> None:
    targets, outputs = maps(0, torch.float32)
    with torch.no_grad():
        outputs[0][0] = 0
        outputs[1][1, :, 2, 3] = 0
        targets[1][2] = 0
    found = weighted_global_cosine(targets, outputs, WEIGHTS["hard"])
    torch.testing.assert_close(found, plainly(targets, outputs, WEIGHTS["hard"]))
    assert all(bool(torch.isfinite(gradient).all()) for gradient in torch.autograd.grad(found, outputs))


def test_outputs_in_half_precision_are_compared_in_float32() -> None:
    targets, outputs = maps(1, torch.float32)
    halves = [output.detach().bfloat16().requires_grad_() for output in outputs]
    found = weighted_global_cosine(targets, halves, WEIGHTS["soft"])
    wanted = weighted_global_cosine(targets, [half.detach().float() for half in halves], WEIGHTS["soft"])
    assert found.dtype == torch.float32
    assert torch.equal(found.detach(), wanted)
    assert torch.autograd.grad(found, halves)[0].dtype == torch.bfloat16
