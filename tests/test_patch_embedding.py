"""The patch embedding against the published order of steps, one at a time, and its choice of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from meds.api import Backbone, Layer, PatchMemoryOptions, PluginError, Preprocessing
from meds.patch_memory.embedding import PatchEmbedding, embedded_layers, pooling_weights


def literal_embedding(maps: Sequence[Tensor], side: int, layer_channels: int, channels: int) -> Tensor:
    """Unfold, resize every number of a patch as an image, pool each layer, pool the layers together: [B, P, C]."""
    grid = maps[0].shape[-2:]
    layers = []
    for values in maps:
        count, _, height, width = values.shape
        squares = F.unfold(values, side, padding=side // 2).view(count, -1, height, width)
        squares = F.interpolate(squares, size=grid, mode="bilinear", align_corners=False)
        layers.append(F.adaptive_avg_pool1d(squares.flatten(2).transpose(1, 2), layer_channels))
    return F.adaptive_avg_pool1d(torch.stack(layers, dim=2).flatten(2), channels)


def layers_of(maps: list[Tensor]) -> list[Layer]:
    return [Layer(f"l{i}", *values.shape[1:]) for i, values in enumerate(maps)]


@pytest.mark.parametrize(
    ("shapes", "options"),
    [
        ([(5, 8, 8), (11, 4, 4)], {}),
        ([(200, 6, 6), (300, 3, 3)], {}),
        ([(6, 7, 5), (9, 3, 4), (4, 2, 2)], {"layer_channels": 20, "channels": 17}),
        ([(6, 3, 3), (6, 6, 6)], {"layer_channels": 10, "channels": 64, "neighbourhood": 5}),
        ([(12, 4, 4)], {"layer_channels": 12, "channels": 12, "neighbourhood": 1}),
    ],
)
def test_one_convolution_a_layer_is_the_published_embedding(
    shapes: list[tuple[int, int, int]], options: dict[str, Any]
) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, *shape, generator=generator) for shape in shapes]
    chosen = PatchMemoryOptions(**options)
    found = PatchEmbedding(chosen, layers_of(maps))(maps)
    wanted = literal_embedding(maps, chosen.neighbourhood, chosen.layer_channels, chosen.channels)
    assert found.shape == (2, shapes[0][1] * shapes[0][2], chosen.channels)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("outputs", "inputs"), [(7, 7), (3, 10), (10, 3), (1024, 360), (5, 12)])
def test_pooling_weights_are_adaptive_pooling(outputs: int, inputs: int) -> None:
    values = torch.randn(4, inputs, generator=torch.Generator().manual_seed(1))
    wanted = F.adaptive_avg_pool1d(values, outputs)
    torch.testing.assert_close(values @ pooling_weights(outputs, inputs).T, wanted, rtol=0, atol=1e-6)


class Maps:
    """A backbone's layers without the backbone."""

    name, final_layer = "maps", "final"

    def __init__(self, family: str, layers: list[Layer]) -> None:
        self.family, self.layers = family, tuple(layers)
        self.preprocessing = Preprocessing(64, 64)

    layer = Backbone.layer


def vit(blocks: int) -> Any:
    return Maps("vit", [Layer(name, 8, 4, 4) for i in range(blocks) for name in (f"block{i}", f"prefix{i}")])


CNN: Any = Maps("cnn", [Layer(f"stride{s}", s, 64 // s, 64 // s) for s in (2, 4, 8, 16, 32)])


def test_published_layers_of_a_cnn() -> None:
    assert embedded_layers("mine", PatchMemoryOptions(), CNN) == ("stride8", "stride16")


@pytest.mark.parametrize(("blocks", "wanted"), [(12, ("block5", "block8")), (24, ("block11", "block17"))])
def test_blocks_of_a_vit(blocks: int, wanted: tuple[str, ...]) -> None:
    assert embedded_layers("mine", PatchMemoryOptions(), vit(blocks)) == wanted


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_blocks_of_a_shallow_vit(blocks: int) -> None:
    assert set(embedded_layers("mine", PatchMemoryOptions(), vit(blocks))) <= {f"block{i}" for i in range(blocks)}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("block99", "unknown layer of the backbone 'maps' 'block99'; "), ("prefix1", "'prefix1'.*holds other tokens")],
)
def test_layers_that_cannot_be_embedded(name: str, sentence: str) -> None:
    with pytest.raises(PluginError, match=sentence):
        embedded_layers("mine", PatchMemoryOptions(layers=[name]), vit(2))


def test_a_neighbourhood_without_a_middle_is_refused() -> None:
    with pytest.raises(ValueError, match="neighbourhood must be odd"):
        PatchMemoryOptions(neighbourhood=2)
