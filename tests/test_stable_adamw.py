"""StableAdamW against recorded steps of the published optimiser."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from meds.plugins.students.stable_adamw import StableAdamW

NAMES = ("matrix", "vector", "scalar", "late")


@pytest.fixture(scope="module")
def tensors():
    with safe_open(Path(__file__).parent / "golden" / "stable_adamw.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("foreach", [None, True])
@pytest.mark.parametrize("amsgrad", [True, False])
def test_eight_steps(tensors, amsgrad: bool, foreach: bool | None) -> None:
    kind = "amsgrad" if amsgrad else "plain"
    parameters = {name: nn.Parameter(tensors[f"state.{name}"].clone()) for name in NAMES}
    optimiser = StableAdamW(parameters.values(), weight_decay=1e-4, eps=1e-10, amsgrad=amsgrad, foreach=foreach)
    for step, rate in enumerate(tensors["input.lr"].tolist()):
        optimiser.param_groups[0]["lr"] = rate
        for name, parameter in parameters.items():
            missing = name == "late" and step < 2
            parameter.grad = None if missing else tensors[f"input.grad.{name}"][step].clone()
        optimiser.step()
        for name, parameter in parameters.items():
            torch.testing.assert_close(parameter.detach(), tensors[f"output.{kind}.{name}"][step], rtol=1e-5, atol=1e-7)
    for name, parameter in parameters.items():
        state = optimiser.state[parameter]
        torch.testing.assert_close(state["exp_avg"], tensors[f"output.{kind}.exp_avg.{name}"])
        torch.testing.assert_close(state["exp_avg_sq"], tensors[f"output.{kind}.exp_avg_sq.{name}"])
        assert state["step"] == (6 if name == "late" else 8)


def test_the_limit_is_reached_in_these_steps(tensors) -> None:
    assert max(tensors[f"output.amsgrad.rms.{name}"].max().item() for name in NAMES) > 1


def test_a_closure_gives_the_loss() -> None:
    parameter = nn.Parameter(torch.ones(3))

    def closure() -> float:
        loss = parameter.square().sum()
        loss.backward()
        return loss.item()

    assert StableAdamW([parameter], lr=0.1).step(closure) == 3.0
    assert (parameter < 1).all()
