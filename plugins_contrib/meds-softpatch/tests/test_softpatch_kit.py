"""SoftPatch in the conformance kit for detectors."""

from __future__ import annotations

from meds.testing import DetectorKit

OPTIONS = {"layer_channels": 24, "channels": 24, "projection": 8, "coreset_ratio": 0.2}


class TestSoftPatch(DetectorKit):
    """A memory of a fifth of narrow patches."""

    name = "softpatch"
    options = OPTIONS
    backbones = ("cnn", "vit")
