"""The loss that Dinomaly and INP-Former share: cosine distance of whole maps, its gradient weighted patch by patch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from meds.plugins.students.precision import at_least_float32
from meds.plugins.students.transformer_layers import to_tokens

# As in torch's cosine similarity: shorter vectors count as this long.
SHORTEST = 1e-8


class _GlobalCosine(torch.autograd.Function):
    """1 - cos of whole maps, and its gradient.

    Products and lengths are taken patch by patch, once: their sums are those of whole maps. Autograd over two cosine
    similarities makes the same numbers in nearly five times the time, because each divides both maps by their lengths.
    """

    @staticmethod
    def forward(context: Any, student: Tensor, teacher: Tensor, weigh: Callable[[Tensor], Tensor]) -> Tensor:
        products = (teacher * student).sum(dim=2)
        of_teacher, of_student = (torch.linalg.vector_norm(tokens, dim=2) for tokens in (teacher, student))
        patches = 1 - products / (of_teacher.clamp_min(SHORTEST) * of_student.clamp_min(SHORTEST))
        teacher_length, length = (torch.linalg.vector_norm(of, dim=1) for of in (of_teacher, of_student))
        teacher_length, student_length = teacher_length.clamp_min(SHORTEST), length.clamp_min(SHORTEST)
        both = teacher_length * student_length
        cosine, along = products.sum(dim=1) / both, 1 / both
        back = torch.where(length > SHORTEST, cosine / student_length.square(), 0)
        context.save_for_backward(student, teacher, weigh(patches), along, back)
        loss: Tensor = (1 - cosine).mean()
        return loss

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        student, teacher, weights, along, back = context.saved_tensors
        weights = weights * (gradients[0] / len(student))
        result = teacher * (weights * -along[:, None])[..., None]
        return result.addcmul_(student, (weights * back[:, None])[..., None]), None, None


def weighted_global_cosine(
    targets: Sequence[Tensor], outputs: Sequence[Tensor], weigh: Callable[[Tensor], Tensor]
) -> Tensor:
    """Mean over groups and images of 1 - cos of whole maps [B, C, H, W], with the gradient weighted by patch.

    `weigh` turns the patch distances 1 - cos over channels, [B, H * W] without a gradient, into factors of the
    gradient that reaches the output at that patch. The value of the loss does not depend on them. Gradients of
    gradients are not offered.
    """
    terms = []
    for target, output in zip(targets, outputs, strict=True):
        teacher, student = (to_tokens(at_least_float32(maps)) for maps in (target.detach(), output))
        terms.append(_GlobalCosine.apply(student, teacher.contiguous(), weigh))
    return torch.stack(terms).mean()
