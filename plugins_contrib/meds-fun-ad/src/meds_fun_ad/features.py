"""Patches and the vector of their image, which FUN-AD joins to every one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from meds.api import Backbone, Layer, PluginError, TrainingFeatures, layers_at_strides

from . import FunADOptions

CNN_STRIDES = (8, 16)
LARGEST_CNN_GRID = 14
CLASS_TOKENS = "prefix"


def layers_of(options: FunADOptions, backbone: Backbone) -> tuple[str, ...]:
    """Names of the layers with patches, and last the one with the class token if there is one.

    Raises:
        PluginError: the backbone lacks a layer, one holds no patches, or there is no class token and one is asked for.
    """
    known = [layer.name for layer in backbone.layers]
    for name in options.layers or ():
        backbone.layer(name)
        if name.startswith(CLASS_TOKENS):
            raise PluginError(
                f"The detector 'fun-ad' scores patches, but the layer '{name}' of the backbone '{backbone.name}' holds "
                "other tokens: name blocks in 'layers', and see 'image_vector'."
            )
    if options.layers:
        names = list(options.layers)
    elif backbone.family == "vit":
        names = [backbone.final_layer]
    else:
        names = layers_at_strides("fun-ad", CNN_STRIDES, backbone)
    tokens = [name for name in known if name.startswith(CLASS_TOKENS)]
    if options.image_vector == "class-token" and not tokens:
        raise PluginError(
            f"The backbone '{backbone.name}' has no class token: set the option 'image_vector' of the detector "
            "'fun-ad' to mean."
        )
    if options.image_vector != "mean" and tokens:
        names.append(tokens[-1])
    return tuple(names)


class Joined(NamedTuple):
    """Patches float32 [B, P, C] and the vector of each image [B, G]; a feature is the vector, then the patch."""

    patches: Tensor
    images: Tensor

    def rows(self, chosen: Sequence[int] | Tensor) -> Joined:
        """Those of some images."""
        return Joined(self.patches[chosen], self.images[chosen])

    def whole(self, mask: Tensor) -> Tensor:
        """The joined features [K, G + C] of the patches where the mask [B, P] is true, image by image."""
        images = self.images[:, None].expand(-1, self.patches.shape[1], -1)
        return torch.cat([images[mask], self.patches[mask]], dim=1)


class FeatureReader:
    """Makes joined features of the maps of layers.

    Attributes:
        grid: height and width of the grid of patches.
        width: numbers of a joined feature.
        mean, std: of every channel of the patches [C], None before or without standardisation.
    """

    def __init__(self, options: FunADOptions, layers: Sequence[Layer]) -> None:
        self._token = layers[-1].name.startswith(CLASS_TOKENS)
        spatial = layers[:-1] if self._token else layers
        finest = max(spatial, key=lambda layer: layer.height * layer.width)
        # A map whose layers are named by strides is a CNN's.
        self.cnn = any(layer.name.startswith("stride") for layer in spatial)
        largest = LARGEST_CNN_GRID if self.cnn else max(finest.height, finest.width)
        self.grid = (options.grid or min(finest.height, largest), options.grid or min(finest.width, largest))
        channels = sum(layer.channels for layer in spatial)
        self.width = channels + (layers[-1].channels if self._token else channels)
        self.standardised = self.cnn if options.standardise is None else options.standardise
        self.mean: Tensor | None = None
        self.std: Tensor | None = None

    def read(self, maps: Sequence[Tensor]) -> Joined:
        """Maps [B, C_i, H_i, W_i] of the layers -> joined features."""
        patches = self._patches(maps)
        if self.mean is not None and self.std is not None:
            patches = (patches - self.mean) / self.std
        if not self._token:
            return Joined(patches, patches.mean(dim=1))
        # The encoder's final LayerNorm is applied to patches only; without its weights it brings the token to scale.
        token = maps[-1][:, :, 0, 0].float()
        return Joined(patches, F.layer_norm(token, token.shape[1:]))

    def read_all(self, training: TrainingFeatures) -> Joined:
        """The joined features of all training images, after learning mean and std from them if wanted."""
        if self.standardised:
            self._learn_scale(training)
        parts = [self.read(maps) for _, maps in training.batches(title="reading features")]
        return Joined(torch.cat([part.patches for part in parts]), torch.cat([part.images for part in parts]))

    def _learn_scale(self, training: TrainingFeatures) -> None:
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for _, maps in training.batches(title="scale of channels"):
            values = self._patches(maps).flatten(0, 1).double()
            count += len(values)
            total = total + values.sum(dim=0)
            squares = squares + values.square().sum(dim=0)
        mean = total / count
        self.mean = mean.float()
        self.std = (squares / count - mean.square()).clamp_min(1e-12).sqrt().float()

    def _patches(self, maps: Sequence[Tensor]) -> Tensor:
        spatial = maps[:-1] if self._token else maps
        joined = torch.cat([self._on_grid(values.float()) for values in spatial], dim=1)
        return joined.flatten(2).transpose(1, 2).contiguous()

    def _on_grid(self, values: Tensor) -> Tensor:
        if values.shape[-2:] == self.grid:
            return values
        if values.shape[-2] >= self.grid[0] and values.shape[-1] >= self.grid[1]:
            return F.adaptive_avg_pool2d(values, self.grid)
        return F.interpolate(values, size=self.grid, mode="bilinear", align_corners=False)
