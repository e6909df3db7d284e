"""Derived layers: means of layers and layers on another grid."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from meds.core.backbone import Layer
from meds.core.errors import PluginError
from meds.core.layer_names import compute, describe, mean_of, on_grid
from meds.plugins.backbones.timm import TimmOptions
from meds.plugins.backbones.timm_backbone import TimmModel

KNOWN = {"a": Layer("a", 3, 8, 8), "b": Layer("b", 3, 4, 4, signed=True), "c": Layer("c", 5, 4, 4)}


def test_a_derived_layer_has_the_shape_and_sign_of_its_terms() -> None:
    assert describe("a@4+b", KNOWN.__getitem__) == Layer("a@4+b", 3, 4, 4, signed=True)
    assert describe(on_grid("c", 7), KNOWN.__getitem__) == Layer("c@7", 5, 7, 7)


@pytest.mark.parametrize("name", ["", "a+", "x", "a+b", "b+c", "a@", "a@0", "a@x", "a@4@4", "+a"])
def test_names_that_make_no_layer(name: str) -> None:
    with pytest.raises(KeyError):
        describe(name, KNOWN.__getitem__)


def test_values_are_the_mean_of_the_terms_on_the_grid() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = {
        name: torch.randn(2, layer.channels, layer.height, layer.width, generator=generator)
        for name, layer in KNOWN.items()
    }
    resized = F.interpolate(maps["a"], size=(4, 4), mode="bilinear", align_corners=True)
    torch.testing.assert_close(compute("a@4", maps), resized)
    torch.testing.assert_close(compute("a@4+b", maps), (resized + maps["b"]) / 2)
    assert compute("a", maps) is maps["a"]


def test_a_backbone_gives_derived_layers() -> None:
    options = TimmOptions(model="vit_tiny_patch16_224", pretrained=False, image_size=64)
    backbone = TimmModel(options)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    name = mean_of(["block1", "block3"])
    with torch.inference_mode():
        first, third = backbone.forward(images, ["block1", "block3"])
        mean, again = backbone.features(images, [name, "block3"])
    torch.testing.assert_close(mean, (first + third) / 2)
    torch.testing.assert_close(again, third)
    assert backbone.layer(name) == Layer(name, 192, 4, 4, signed=True)
    with pytest.raises(PluginError, match=r"unknown layer of the backbone 'timm' 'blok1'; did you mean 'block1'\?"):
        backbone.layer("blok1")
    with pytest.raises(PluginError, match=r"'block1\+prefix1'"):  # of different shapes
        backbone.layer("block1+prefix1")
