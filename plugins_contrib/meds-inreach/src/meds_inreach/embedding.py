"""Patch vectors of InReaCh: neighbourhoods in several layers, brought to one grid and pooled to one width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from meds.api import Backbone, Layer, PluginError

from . import InReaChOptions

CNN_STRIDES = (4, 8, 16, 32)
VIT_QUARTERS = (1, 2, 3)
LARGEST_GRID = 14
LARGEST_WIDTH = 1024


def embedded_layers(options: InReaChOptions, backbone: Backbone) -> tuple[str, ...]:
    """Names of the layers to embed, the published ones as near as the backbone has them.

    Raises:
        PluginError: the backbone lacks a layer, or one holds no patches.
    """
    for name in options.layers or ():
        backbone.layer(name)
        if name.startswith("prefix"):
            raise PluginError(
                f"The detector 'inreach' compares patches, but the layer '{name}' of the backbone "
                f"'{backbone.name}' holds other tokens: name blocks in 'layers'."
            )
    return tuple(options.layers or (_cnn_layers if backbone.family == "cnn" else _vit_layers)(backbone))


def _cnn_layers(backbone: Backbone) -> list[str]:
    size, found = backbone.preprocessing.size, {}
    for layer in backbone.layers:
        for stride in CNN_STRIDES:
            if layer.height in (size // stride, -(-size // stride)):
                found[stride] = layer.name  # of several maps of one grid the last is its stage's output
    return [found[stride] for stride in sorted(found)] or [backbone.final_layer]


def _vit_layers(backbone: Backbone) -> list[str]:
    # Not the last quarter: its patches know of a defect that lies elsewhere in the image, and are the longest vectors.
    blocks = [layer.name for layer in backbone.layers if layer.name.startswith("block")]
    places = [max(quarter * len(blocks) // 4 - 1, 0) for quarter in VIT_QUARTERS] if blocks else []
    return [blocks[place] for place in dict.fromkeys(places)] or [backbone.final_layer]


class PatchEmbedding:
    """Maps of several layers -> one vector for each position of a square grid.

    As published, a layer's patch is a `neighbourhood`² square around a position, zeros beyond the border, which is
    resized to the grid, pooled to `layer_channels` numbers, joined with the other layers' and pooled to `width`
    numbers. Both poolings are linear and the same for every position, so that a layer here is one convolution with
    fixed weights whose result is resized.

    Attributes:
        grid: height and width of the grid.
        width: numbers of a patch vector.
    """

    def __init__(self, options: InReaChOptions, layers: Sequence[Layer]) -> None:
        finest = max(layers, key=lambda layer: layer.height * layer.width)
        self.grid = (options.grid or min(finest.height, LARGEST_GRID), options.grid or min(finest.width, LARGEST_GRID))
        self.width = options.channels or min(LARGEST_WIDTH, sum(layer.channels for layer in layers))
        self._side, inner = options.neighbourhood, options.layer_channels
        together = pooling_matrix(self.width, len(layers) * inner)
        self._parts: list[tuple[slice, Tensor]] = []
        for index, layer in enumerate(layers):
            share = together[:, index * inner : (index + 1) * inner]
            used = share.any(dim=1).nonzero()[:, 0]
            rows = slice(int(used[0]), int(used[-1]) + 1)
            kernel = share[rows] @ pooling_matrix(inner, layer.channels * self._side**2)
            self._parts.append((rows, kernel.view(-1, layer.channels, self._side, self._side)))

    def __call__(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps [B, C_i, H_i, W_i] -> patch vectors float32 [B, positions row by row, width]."""
        self._parts = [(rows, kernel.to(maps[0].device)) for rows, kernel in self._parts]
        result = torch.zeros(len(maps[0]), self.width, *self.grid, device=maps[0].device)
        for values, (rows, kernel) in zip(maps, self._parts, strict=True):
            result[:, rows] += self._on_grid(F.conv2d(values.float(), kernel, padding=self._side // 2))
        return result.flatten(2).transpose(1, 2).contiguous()

    def _on_grid(self, values: Tensor) -> Tensor:
        if values.shape[-2:] == self.grid:
            return values
        if values.shape[-2] >= self.grid[0] and values.shape[-1] >= self.grid[1]:
            # Bilinear interpolation to a coarser grid would pass over most of a finer layer.
            return F.adaptive_avg_pool2d(values, self.grid)
        return F.interpolate(values, size=self.grid, mode="bilinear", align_corners=False)


def pooling_matrix(outputs: int, inputs: int) -> Tensor:
    """Adaptive mean pooling as a matrix, float32 [outputs, inputs].

    Output i is the mean of the inputs from floor(i * inputs / outputs) to before ceil((i + 1) * inputs / outputs).
    """
    output, place = torch.arange(outputs)[:, None], torch.arange(inputs)
    first, end = output * inputs // outputs, -(-(output + 1) * inputs // outputs)
    return ((place >= first) & (place < end)) / (end - first)
