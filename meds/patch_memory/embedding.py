"""Patch embedding of PatchCore: neighbourhoods of several layers on one grid, pooled to one width (sec. 3.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from meds.core.backbone import Backbone, Layer
from meds.core.errors import PluginError
from meds.core.strides import layers_at_strides
from meds.patch_memory.options import PatchMemoryOptions

CNN_STRIDES = (8, 16)


def embedded_layers(detector: str, options: PatchMemoryOptions, backbone: Backbone) -> tuple[str, ...]:
    """Names of the layers to embed.

    Raises:
        PluginError: the backbone lacks a layer, or one holds no patches.
    """
    if options.layers is None:
        return tuple(_default_layers(detector, backbone))
    for name in options.layers:
        backbone.layer(name)
        if name.startswith("prefix"):
            raise PluginError(
                f"The detector '{detector}' compares patches, but the layer '{name}' of the backbone "
                f"'{backbone.name}' holds other tokens: name blocks in 'layers'."
            )
    return tuple(options.layers)


def _default_layers(detector: str, backbone: Backbone) -> list[str]:
    if backbone.family == "cnn":
        return layers_at_strides(detector, CNN_STRIDES, backbone)
    blocks = [layer.name for layer in backbone.layers if layer.name.startswith("block")]
    # The middle of the network, as the CNN's layers are: its last layers know what is shown rather than how it looks.
    places = (max(len(blocks) // 2 - 1, 0), max(3 * len(blocks) // 4 - 1, 0))
    return [blocks[place] for place in dict.fromkeys(places)] or [backbone.final_layer]


class PatchEmbedding:
    """Maps of several layers -> one vector for each position of the first layer's grid.

    A patch of a layer is its `neighbourhood` x `neighbourhood` square around a position, zeros beyond the border:
    C * neighbourhood² numbers, those of a channel together. The published code pools them adaptively to
    `layer_channels`, after it has brought them to the first layer's grid (bilinearly, corners not aligned), and pools
    the layers, one after the other, to `channels`. All of this is linear, and what happens along the numbers of a
    patch does not depend on what happens along positions. So here a layer is one convolution (in as many groups as
    the poolings leave apart), whose fixed weights are both poolings at once, and only its result is resized: the
    squares are never laid out.
    """

    def __init__(self, options: PatchMemoryOptions, layers: Sequence[Layer]) -> None:
        self.channels, self._side = options.channels, options.neighbourhood
        together = pooling_weights(options.channels, len(layers) * options.layer_channels)
        self._rows: list[slice] = []
        self._groups: list[int] = []
        self._kernels: list[Tensor] = []
        for index, layer in enumerate(layers):
            share = together[:, index * options.layer_channels : (index + 1) * options.layer_channels]
            used = share.any(dim=1).nonzero()
            rows = slice(int(used[0]), int(used[-1]) + 1)
            numbers = pooling_weights(options.layer_channels, layer.channels * self._side**2)
            kernel = (share[rows] @ numbers).view(-1, layer.channels, self._side, self._side)
            self._rows.append(rows)
            self._groups.append(groups_of(kernel))
            self._kernels.append(diagonal_blocks(kernel, self._groups[-1]))

    def __call__(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps [B, C_i, H_i, W_i] -> patch vectors float32 [B, H_0 * W_0, channels], positions row by row."""
        count, grid, device = len(maps[0]), maps[0].shape[-2:], maps[0].device
        self._kernels = [kernel.to(device) for kernel in self._kernels]
        result = torch.zeros(count, self.channels, *grid, device=device)
        for values, rows, kernel, groups in zip(maps, self._rows, self._kernels, self._groups, strict=True):
            pooled = F.conv2d(values.float(), kernel, padding=self._side // 2, groups=groups)
            if pooled.shape[-2:] != grid:
                pooled = F.interpolate(pooled, size=grid, mode="bilinear", align_corners=False)
            result[:, rows] += pooled
        return result.flatten(2).transpose(1, 2).contiguous()


def groups_of(kernel: Tensor) -> int:
    """Into how many groups a convolution's kernel [R, C, k, k] falls, so that an output needs its own group alone.

    Pooling is a narrow band: an output sees a few neighbouring channels of hundreds.
    """
    rows, channels = kernel.shape[:2]
    used = kernel.flatten(2).any(dim=2).nonzero()
    for groups in range(math.gcd(rows, channels), 1, -1):
        if rows % groups or channels % groups:
            continue
        if bool((used[:, 0] * groups // rows == used[:, 1] * groups // channels).all()):
            return groups
    return 1


def diagonal_blocks(kernel: Tensor, groups: int) -> Tensor:
    """The kernel [R, C, k, k] of a convolution in groups, [R, C / groups, k, k]."""
    rows, channels, *side = kernel.shape
    blocks = kernel.view(groups, rows // groups, groups, channels // groups, *side)
    own = torch.arange(groups)
    return blocks[own, :, own].reshape(rows, channels // groups, *side).contiguous()


def pooling_weights(outputs: int, inputs: int) -> Tensor:
    """Adaptive mean pooling as a matrix, float32 [outputs, inputs].

    Output i is the mean of the inputs from floor(i * inputs / outputs) to before ceil((i + 1) * inputs / outputs).
    """
    index = torch.arange(outputs)[:, None]
    first, end = index * inputs // outputs, -(-(index + 1) * inputs // outputs)
    place = torch.arange(inputs)
    return ((place >= first) & (place < end)) / (end - first)
