"""The backbone contract: a frozen encoder that turns images into feature maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from meds.core import layer_names
from meds.core.errors import PluginError
from meds.core.registry import unknown_name

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Resize to `resize`² pixels (bilinear, aspect ratio not kept), cut the central `size`², normalise."""

    resize: int
    size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


@dataclass(frozen=True)
class Layer:
    """One feature map that a backbone can give: `channels` x `height` x `width` for an image.

    `signed` tells whether it takes negative values; a map that comes out of a ReLU does not.
    """

    name: str
    channels: int
    height: int
    width: int
    signed: bool = False


class Backbone(ABC):
    """A frozen encoder in evaluation mode.

    Attributes:
        name: the name in the spec.
        family: "cnn" or "vit".
        preprocessing: how images become the input.
        layers: the maps it can give, from fine to coarse (CNN) or first to last (ViT).
        final_layer: the name of the layer that stands for "the encoder's output" (for a ViT the last
            layer after its LayerNorm, patch tokens only; for a CNN its last stage).
        fingerprint: sha256 (hex) over architecture, weights and preprocessing.
    """

    name: str
    family: Literal["cnn", "vit"]
    preprocessing: Preprocessing
    layers: tuple[Layer, ...]
    final_layer: str
    fingerprint: str

    @abstractmethod
    def to(self, device: torch.device) -> None:
        """Move the weights to a device."""

    @abstractmethod
    def forward(self, images: torch.Tensor, layers: Sequence[str]) -> list[torch.Tensor]:
        """Feature maps of the named layers: images float32 [B, 3, S, S], normalised -> [B, C_i, H_i, W_i].

        Called under inference mode, possibly under autocast; returns any floating dtype.
        """

    def layer(self, name: str) -> Layer:
        """The layer of that name, also a derived one ("block2+block3", "stride4@14").

        Raises:
            PluginError: there is none, with the nearest known name.
        """
        known = {layer.name: layer for layer in self.layers}
        try:
            return known[name] if name in known else layer_names.describe(name, known.__getitem__)
        except KeyError:
            raise PluginError(unknown_name(f"layer of the backbone '{self.name}'", name, known)) from None

    def features(self, images: torch.Tensor, names: Sequence[str]) -> list[torch.Tensor]:
        """Maps of layers of its own and of derived ones, in the order of `names`; see `forward`."""
        bases = list(dict.fromkeys(term.base for name in names for term in layer_names.parse(name)))
        maps = dict(zip(bases, self.forward(images, bases), strict=True))
        return [layer_names.compute(name, maps) for name in names]


def normalise(image: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """RGB uint8 [S, S, 3], already resized and cut -> float32 [3, S, S] with the encoder's mean and std."""
    mean = np.asarray(preprocessing.mean, dtype=np.float32)
    std = np.asarray(preprocessing.std, dtype=np.float32)
    scaled = (image.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))
