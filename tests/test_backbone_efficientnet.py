"""EfficientNets as the published code has them: names of their weights, and padding fixed for one image size."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch
from torch import Tensor, nn

from meds.core.errors import PluginError
from meds.plugins.backbones.timm import TimmOptions
from meds.plugins.backbones.timm_backbone import TimmModel
from meds.plugins.backbones.timm_weights import with_timm_names

MODEL = "tf_efficientnet_b0"
LAYERS = ["stride2", "stride4", "stride8", "stride16"]


class EasyDict(dict):
    """As in the package easydict: keys that are attributes too."""

    def __init__(self, **values) -> None:
        super().__init__(values)
        self.__dict__.update(values)


EasyDict.__module__, EasyDict.__qualname__ = "easydict", "EasyDict"


@pytest.fixture(autouse=True)
def _easydict(monkeypatch) -> None:
    package = ModuleType("easydict")
    package.EasyDict = EasyDict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "easydict", package)


def published(prefix: str = "") -> dict[str, Tensor]:
    """A state as in the published code: its first name, other names elsewhere, no counts of batches."""
    model = timm.create_model(MODEL)
    nn.init.normal_(model.get_submodule("bn1").running_mean)
    state = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
    theirs = {}
    for place, (name, value) in enumerate(state.items()):
        theirs[f"{prefix}_conv_stem.weight" if place == 0 else f"{prefix}x{place}.{name.rpartition('.')[2]}"] = value
    return theirs


def opened(**options) -> TimmModel:
    return TimmModel(TimmOptions(**{"model": MODEL, "pretrained": "weights" in options, "image_size": 64} | options))


def maps(backbone: TimmModel) -> list[Tensor]:
    size = backbone.preprocessing.size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return backbone.forward(images, LAYERS)


@pytest.mark.parametrize("prefix", ["", "module.enc."])
def test_weights_with_the_published_names(tmp_path: Path, prefix: str) -> None:
    state = published(prefix)
    # A checkpoint of HVQ-Trans holds the rest of its network beside it, and settings of easydict.
    more = {"module.quantize_conv_t.weight": torch.zeros(2)} if prefix else {}
    torch.save({"state_dict": state | more, "arch": [EasyDict(name="net")]}, tmp_path / "model.pth")
    found = opened(weights=tmp_path / "model.pth")._model.state_dict()
    wanted = [name for name in timm.create_model(MODEL).state_dict() if "num_batches" not in name]
    for name, value in zip(wanted, state.values(), strict=True):
        if not name.startswith("classifier."):
            assert torch.equal(found[name], value), name


def test_of_another_network_is_one_sentence() -> None:
    state = published()
    shorter = dict(list(state.items())[:-1])
    first, *others = state.items()
    for wrong in (shorter, dict([first, *reversed(others)])):
        with pytest.raises(PluginError, match=r"^The file holds another EfficientNet than 'tf_efficientnet_b0'\.$"):
            with_timm_names(wrong, MODEL, "The file")


def test_other_names_stay_as_they_are() -> None:
    state = {"conv_stem.weight": torch.zeros(1)}
    assert with_timm_names(state, MODEL, "The file") is state


def test_padding_for_the_size_at_hand_changes_nothing() -> None:
    for found, expected in zip(maps(opened(padding_size=64)), maps(opened()), strict=True):
        assert torch.equal(found, expected)


def test_padding_for_another_size() -> None:
    """76 pixels become 38, 19, 10 and 5; to halve 19 with five taps, two zeros are needed on each side."""
    fixed, usual = opened(padding_size=76), opened()
    pads = [part.padding for part in fixed._model.modules() if isinstance(part, nn.ZeroPad2d)]
    assert pads == [(0, 1, 0, 1), (0, 1, 0, 1), (2, 2, 2, 2), (0, 1, 0, 1), (2, 2, 2, 2)]
    same = [torch.equal(a, b) for a, b in zip(maps(fixed), maps(usual), strict=True)]
    assert same == [True, True, False, False]
    assert [m.shape for m in maps(fixed)] == [m.shape for m in maps(usual)]
    prints = {fixed.fingerprint, usual.fingerprint, opened(padding_size=64).fingerprint}
    assert len(prints) == 3, "features of one must not be taken for the other's"


def test_padding_needs_a_model_that_pads_by_size() -> None:
    with pytest.raises(PluginError, match=r"No padding of the timm model 'resnet18' .*: leave out 'padding_size'\."):
        opened(model="resnet18", padding_size=64)
