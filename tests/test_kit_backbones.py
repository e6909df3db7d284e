"""The kit for backbones catches a broken backbone with every one of its checks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import SkipTest

import numpy as np
import pytest
import torch
from kit_cases import OF_EVERY_KIT, caught, kit_of
from torch.nn import functional as F

from meds.core.backbone import Preprocessing
from meds.core.registry import Options
from meds.testing import BackboneKit
from meds.testing.encoders import RandomCnn, RandomCnnOptions


class Good(RandomCnn):
    """As it should be, under the name that the tests register."""

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.name = "broken"


def with_layers(change: Any) -> type[Good]:
    class Declared(Good):
        def __init__(self, options: Any) -> None:
            super().__init__(options)
            self.layers = tuple(change(list(self.layers)))

    return Declared


def with_facts(**facts: Any) -> type[Good]:
    class Stated(Good):
        def __init__(self, options: Any) -> None:
            super().__init__(options)
            vars(self).update(facts)

    return Stated


class ForgetsTheOrder(Good):
    def forward(self, images, layers):
        names = [layer.name for layer in self.layers] if hasattr(self, "layers") else layers
        return super().forward(images, [name for name in names if name in layers])


class CountsFromTheEnd(Good):
    """Normalises by all maps that were asked for."""

    def forward(self, images, layers):
        return [values / len(layers) for values in super().forward(images, layers)]


class NotFrozen(Good):
    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.network.requires_grad_(True)


class DropsOut(Good):
    def forward(self, images, layers):
        return super().forward(F.dropout(images), layers)


class StartsByChance(Good):
    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.network.convolutions[0][0].weight += torch.tensor(np.random.default_rng().normal())


class ChangesImages(Good):
    def forward(self, images, layers):
        return super().forward(images.mul_(1.5), layers)


class Reseeds(Good):
    def __init__(self, options: Any) -> None:
        torch.manual_seed(options.seed)
        super().__init__(options)


class LooksAtNeighbours(Good):
    def forward(self, images, layers):
        return super().forward(images - images.mean(dim=0), layers)


class NamedByItsAddress(Good):
    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.fingerprint = f"{id(self):064x}"


class NeedsFloat32(Good):
    def forward(self, images, layers):
        return [torch.from_numpy(values.numpy() * 1) for values in super().forward(images, layers)]


class EvenSizesOnly(Good):
    def __init__(self, options: Any) -> None:
        if options.image_size % 2:
            raise RuntimeError("shape mismatch")
        super().__init__(options)


class IgnoresItsSize(Good):
    def __init__(self, options: Any) -> None:
        super().__init__(options.model_copy(update={"image_size": options.image_size // 2 * 2}))


class BreaksInARun(Good):
    def forward(self, images, layers):
        if len(images) > 8:
            raise MemoryError("too many images")
        return super().forward(images, layers)


def renamed(name: str) -> Any:
    return lambda layers: [replace(layers[0], name=name), *layers[1:]]


@pytest.mark.parametrize(
    ("check", "backbone", "sentence"),
    [
        ("test_it_loads", dict, "must be a subclass of Backbone"),
        ("test_facts_are_sane", with_facts(name="other"), "calls itself 'other'"),
        ("test_facts_are_sane", with_facts(family="mlp"), "must be of the family 'cnn' or 'vit', not 'mlp'"),
        ("test_facts_are_sane", with_facts(preprocessing=Preprocessing(32, 64)), "cuts 64 pixels out of 32"),
        ("test_facts_are_sane", with_facts(preprocessing=Preprocessing(64, 64, std=(1, 1, 0))), "positive deviations"),
        ("test_facts_are_sane", with_facts(final_layer="last"), "names 'last' as its final layer"),
        ("test_facts_are_sane", with_layers(lambda layers: []), "has no layers"),
        ("test_facts_are_sane", with_layers(lambda layers: [layers[0], *layers]), "two layers of one name"),
        ("test_facts_are_sane", with_layers(renamed("a+b")), r"layer name \['a\+b'\]"),
        ("test_facts_are_sane", with_layers(lambda layers: layers[::-1]), "from fine to coarse"),
        (
            "test_layers_are_as_declared",
            with_layers(lambda layers: [replace(layers[0], channels=9), *layers[1:]]),
            r"declared as \[4, 9, 32, 32\] for four images, and is float32 \[4, 8, 32, 32\]",
        ),
        (
            "test_layers_are_as_declared",
            with_layers(lambda layers: [replace(layer, signed=False) for layer in layers]),
            "declared without a sign, and takes negative values",
        ),
        (
            "test_layers_are_as_declared",
            with_layers(lambda layers: [replace(layer, signed=True) for layer in layers]),
            "declared as signed, and is nowhere negative",
        ),
        ("test_layers_come_in_the_wanted_order", ForgetsTheOrder, "another map for 'stride32'"),
        ("test_layers_come_in_the_wanted_order", CountsFromTheEnd, "if it is asked for some layers"),
        ("test_frozen", NotFrozen, "its maps ask for a gradient"),
        ("test_frozen", DropsOut, "it must be in evaluation mode"),
        ("test_frozen", StartsByChance, "when it is made anew: its weights must not change"),
        ("test_frozen", ChangesImages, "changes the images|another 'stride2' when it is asked again"),
        ("test_making_one_leaves_the_random_generator_alone", Reseeds, "put torch.random.fork_rng around it"),
        ("test_images_do_not_depend_on_the_batch", LooksAtNeighbours, "of an image otherwise alone"),
        ("test_fingerprint", with_facts(fingerprint="cnn-1"), "a sha256 in hexadecimal"),
        ("test_fingerprint", with_facts(fingerprint="0" * 64), "one fingerprint for itself and {'image_size': 128}"),
        ("test_fingerprint", NamedByItsAddress, "another fingerprint when it is made anew"),
        ("test_bf16", NeedsFloat32, "raised TypeError: .*BFloat16"),
        ("test_odd_image_sizes", EvenSizesOnly, "must take images of 65 pixels or refuse them with a PluginError"),
        ("test_odd_image_sizes", IgnoresItsSize, "takes another size than the 65"),
        ("test_a_whole_run", BreaksInARun, "raised MemoryError: too many images"),
    ],
)
def test_a_broken_backbone_is_caught(check: str, backbone: Any, sentence: str) -> None:
    caught(BackboneKit, backbone, check, sentence, RandomCnnOptions)


def test_other_weights_need_another_fingerprint() -> None:
    class ByShape(Good):
        def __init__(self, options: Any) -> None:
            super().__init__(options)
            self.fingerprint = f"{options.image_size:064x}"

    kit_of(BackboneKit, ByShape, RandomCnnOptions).test_fingerprint()
    sentence = "one fingerprint for itself and {'seed': 1}"
    caught(BackboneKit, ByShape, "test_fingerprint", sentence, RandomCnnOptions, other_encoders=({"seed": 1},))


def test_a_good_backbone_passes_everything_without_an_option_for_its_size() -> None:
    class Fixed(Good):
        def __init__(self, options: Any) -> None:
            super().__init__(RandomCnnOptions())

    kit = kit_of(BackboneKit, Fixed, Options)
    kit.test_facts_are_sane()
    for check in ("test_fingerprint", "test_odd_image_sizes"):
        with pytest.raises(SkipTest, match="no option 'image_size'"):
            getattr(kit, check)()


def test_every_check_of_the_kit_catches_something() -> None:
    (marks,) = test_a_broken_backbone_is_caught.pytestmark
    tested = {check for check, *_ in marks.args[1]}
    assert tested | OF_EVERY_KIT == set(BackboneKit.checks)
