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
from meds.plugins.students.dinomaly import DinomalyOptions
from meds.plugins.students.dinomaly_network import Dinomaly
from meds.plugins.students.hvq import HVQOptions
from meds.plugins.students.hvq_network import HierarchicalVectorQuantisedTransformer
from meds.plugins.students.inp_former import INPFormerOptions
from meds.plugins.students.inp_former_network import INPFormer
from meds.plugins.students.rd import RDOptions
from meds.plugins.students.rd_network import ReverseDistillation

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


@pytest.mark.parametrize(
    ("name", "student", "options"),
    [
        ("dinomaly", Dinomaly, DinomalyOptions(layers=[["stride8"], ["stride61"]])),
        ("inp-former", INPFormer, INPFormerOptions(layers=[["stride8"], ["stride61"]])),
        ("hvq", HierarchicalVectorQuantisedTransformer, HVQOptions(layers=["stride8", "stride61"])),
        ("rd", ReverseDistillation, RDOptions(layers=["stride4", "stride8", "stride61"])),
    ],
)
def test_every_student_says_in_one_sentence_which_layer_there_is_not(name, student, options) -> None:
    backbone = TimmModel(TimmOptions(model="resnet18", pretrained=False, image_size=64))
    sentence = (
        f"The option 'layers' of the student '{name}' names an unknown layer of the backbone 'timm' 'stride61'; "
        "did you mean 'stride16'?"
    )
    with pytest.raises(PluginError) as caught:
        student.layers_needed(options, backbone)
    assert str(caught.value) == sentence


def test_groups_are_made_of_the_backbone_s_own_layers() -> None:
    backbone = TimmModel(TimmOptions(model="resnet18", pretrained=False, image_size=64))
    with pytest.raises(PluginError, match="names an unknown layer of the backbone 'timm' 'stride8@4'"):
        Dinomaly.layers_needed(DinomalyOptions(layers=[["stride8@4"], ["stride16"]]), backbone)
