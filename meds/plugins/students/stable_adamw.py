"""StableAdamW as Dinomaly and INP-Former use it: AdamW whose step is limited where the gradient is large."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class StableAdamW(torch.optim.Optimizer):
    """AdamW with a limit on the root mean square of gradient / denominator, tensor by tensor.

    Per step t: p *= 1 - lr * decay; m and v are the running means of g and g², with amsgrad v is replaced by its
    maximum so far; d = sqrt(v) / sqrt(1 - b2^t) + eps; r = max(1, RMS(g / d) / clip_threshold);
    p -= lr / ((1 - b1^t) r) * m / d. Parameters without a gradient are left alone.
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

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; returns the closure's loss if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])]
            state.update({name: torch.zeros_like(parameter) for name in names})
        state["step"] += 1
        first, second = group["betas"]
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(gradient, 1 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        if group["amsgrad"]:
            square = torch.maximum(state["max_exp_avg_sq"], square, out=state["max_exp_avg_sq"])
        denominator = square.sqrt().div_(math.sqrt(1 - second ** state["step"])).add_(group["eps"])
        # The limit stays on the device: reading it would make a GPU wait at every tensor.
        size = (gradient / denominator).square_().mean().sqrt_().div_(group["clip_threshold"]).clamp_(min=1.0)
        update = torch.div(mean, denominator, out=denominator).div_(size)
        parameter.add_(update, alpha=-group["lr"] / (1 - first ** state["step"]))
