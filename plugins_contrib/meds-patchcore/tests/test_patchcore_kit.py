"""PatchCore in the conformance kit for detectors."""

from __future__ import annotations

from meds.testing import DetectorKit

OPTIONS = {"layer_channels": 24, "channels": 24, "projection": 8, "coreset_ratio": 0.2}


class TestPatchCore(DetectorKit):
    """A memory of a fifth of narrow patches."""

    name = "patchcore"
    options = OPTIONS
    backbones = ("cnn", "vit")


class TestPatchCoreOfThePaper(DetectorKit):
    """Plain distances and re-weighted image scores, which the detector gives itself."""

    name = "patchcore"
    options = OPTIONS | {"distance": "euclidean", "reweighting": 4}
    backbones = ("cnn", "vit")
