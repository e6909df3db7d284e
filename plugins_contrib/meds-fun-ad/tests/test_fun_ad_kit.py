"""FUN-AD in the conformance kit for detectors."""

from __future__ import annotations

from meds.testing import DetectorKit

OPTIONS = {"epochs": 2, "batch_size": 4, "hidden": (16, 8)}


class TestFunAD(DetectorKit):
    """A narrow discriminator, trained shortly; a ViT's patches are joined with its class token."""

    name = "fun-ad"
    options = OPTIONS
    backbones = ("cnn", "vit")


class TestFunADAsPublished(DetectorKit):
    """Noise that reaches the smoothness term, and features as the encoder gives them."""

    name = "fun-ad"
    options = OPTIONS | {"noise_in_place": True, "standardise": False, "image_vector": "mean"}
    backbones = ("cnn", "vit")
