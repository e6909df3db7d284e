"""UniAD in the conformance kit for students."""

from __future__ import annotations

from meds.testing import StudentKit

SMALL = {"width": 16, "heads": 2, "feedforward": 32, "encoder_layers": 1, "decoder_layers": 2, "learning_rate": 0.002}


class TestUniAD(StudentKit):
    """A small transformer on a CNN's joined layers and on a ViT's last one; tiny grids bear no larger mask."""

    name = "uniad"
    options = SMALL | {"neighbours": 1, "batch_size": 8}
    backbones = ("cnn", "vit")


class TestUniADWithoutMask(StudentKit):
    """No mask, no jitter, and the map that memory and selection score by."""

    name = "uniad"
    options = SMALL | {"neighbours": 0, "jitter_scale": 0.0, "map": "distance", "batch_size": 8}
    backbones = ("cnn", "vit")
