"""StableAdamW as Dinomaly and INP-Former use it: AdamW whose step is limited where the gradient is large."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class StableAdamW(torch.optim.Optimizer):
    """AdamW with a limit on the root mean square of gradient / denominator, tensor by tensor.

    Per step t: p *= 1 - lr * decay; m and v are the running means of g and g², with amsgrad v is replaced by its
    maximum so far; d = sqrt(v) / sqrt(1 - b2^t) + eps; r = max(1, RMS(g / d) / clip_threshold);
    p -= lr / ((1 - b1^t) r) * m / d. Parameters without a gradient are left alone.

    `foreach` is as in torch's own optimisers: all tensors in a few kernels, or, where it is False, one tensor after the
    other; None takes the first on an accelerator, where kernels are what costs, and the second on a processor.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-10,
        weight_decay: float = 1e-4,
        amsgrad: bool = True,
        clip_threshold: float = 1.0,
        foreach: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "clip_threshold": clip_threshold,
        }
        super().__init__(parameters, defaults)
        self._foreach = foreach

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; returns the closure's loss if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in moving:
                self._count(parameter, group["amsgrad"])
            together = any(p.device.type != "cpu" for p in moving) if self._foreach is None else self._foreach
            for parameters in self._by_step(moving) if together else [[parameter] for parameter in moving]:
                self._update(parameters, group)
        return loss

    def _count(self, parameter: Tensor, amsgrad: bool) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if amsgrad else [])]
            state.update({name: torch.zeros_like(parameter) for name in names})
        state["step"] += 1

    def _by_step(self, parameters: Sequence[Tensor]) -> list[list[Tensor]]:
        """The parameters in groups that have taken as many steps."""
        found: dict[int, list[Tensor]] = {}
        for parameter in parameters:
            found.setdefault(self.state[parameter]["step"], []).append(parameter)
        return list(found.values())

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Move parameters that have taken as many steps, this one included."""
        step = self.state[parameters[0]]["step"]
        gradients = [p.grad for p in parameters if p.grad is not None]
        means, squares = ([self.state[p][name] for p in parameters] for name in ("exp_avg", "exp_avg_sq"))
        first, second = group["betas"]
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - second)
        if group["amsgrad"]:
            largest = [self.state[p]["max_exp_avg_sq"] for p in parameters]
            torch._foreach_maximum_(largest, squares)
            squares = largest
        denominators = list(torch._foreach_sqrt(squares))
        torch._foreach_div_(denominators, math.sqrt(1 - second**step))
        torch._foreach_add_(denominators, group["eps"])
        # The limits stay on the device: reading them would make it wait.
        sizes = list(torch._foreach_norm(torch._foreach_div(gradients, denominators)))
        torch._foreach_div_(sizes, [math.sqrt(p.numel()) * group["clip_threshold"] for p in parameters])
        torch._foreach_clamp_min_(sizes, 1.0)
        updates = list(torch._foreach_div(means, denominators))
        torch._foreach_div_(updates, sizes)
        torch._foreach_add_(parameters, updates, alpha=-group["lr"] / (1 - first**step))
