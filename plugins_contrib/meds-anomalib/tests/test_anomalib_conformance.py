"""meds' own checks of the contract, on anomalib's models and on the backbone `pixels`."""

from __future__ import annotations

from anomalib_cases import needs_anomalib

from meds.testing import BackboneKit, DetectorKit

PIXELS = {"type": "pixels", "image_size": 32}
SMALL = {"pre_trained": False, "batch_size": 4}


class TestPixels(BackboneKit):
    name = "pixels"
    options = {"image_size": 32}


@needs_anomalib
class TestPadim(DetectorKit):
    name = "anomalib"
    options = {"model": "Padim", **SMALL, "init_args": {"n_features": 16}}
    backbone = PIXELS


@needs_anomalib
class TestPatchcore(DetectorKit):
    name = "anomalib"
    options = {
        "model": "Patchcore",
        **SMALL,
        "folds": 2,
        "init_args": {"backbone": "resnet18", "coreset_sampling_ratio": 0.2},
    }
    backbone = PIXELS


@needs_anomalib
class TestStfpm(DetectorKit):
    name = "anomalib"
    options = {"model": "Stfpm", **SMALL, "max_epochs": 1}
    backbone = PIXELS
