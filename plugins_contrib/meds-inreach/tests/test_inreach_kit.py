"""InReaCh in the conformance kit for detectors, whose images are few: channels of two patches must do."""

from __future__ import annotations

from meds.testing import DetectorKit

OPTIONS = {"layer_channels": 24, "min_channel_length": 1, "seeds": 4}


class TestInReaCh(DetectorKit):
    """As it is by default."""

    name = "inreach"
    options = OPTIONS
    backbones = ("cnn", "vit")


class TestInReaChAsPublished(DetectorKit):
    """The published seeds, neighbours and exchanged positions, and places in every vector."""

    name = "inreach"
    options = OPTIONS | {
        "seed_images": "first",
        "best_seed": "any",
        "swapped_indices": True,
        "position": "always",
    }
    backbones = ("cnn", "vit")
