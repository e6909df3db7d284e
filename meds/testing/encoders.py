"""Tiny random encoders of the families "cnn" and "vit", and images for them: no weights, no download, milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from meds.core.backbone import Backbone, Layer, Preprocessing
from meds.core.errors import PluginError
from meds.core.hookspecs import hookimpl
from meds.core.registry import Options, Plugin
from meds.core.weights import backbone_fingerprint

PATCH = 8
PREFIX_TOKENS = 5
CNN, VIT = "random-cnn", "random-vit"
ENCODERS = {"cnn": CNN, "vit": VIT}


class RandomCnnOptions(Options):
    """Options of the encoder `random-cnn`."""

    image_size: int = Field(default=64, ge=8, description="Side of the square input in pixels.")
    stages: int = Field(default=5, ge=1, le=5, description="Number of maps: strides 2, 4, 8, 16 and 32.")
    seed: int = Field(default=0, ge=0, description="Seed of the random weights.")


class RandomVitOptions(Options):
    """Options of the encoder `random-vit`."""

    image_size: int = Field(default=64, ge=PATCH, description="Side of the square input in pixels, a multiple of 8.")
    blocks: int = Field(default=12, ge=1, description="Number of transformer blocks.")
    seed: int = Field(default=0, ge=0, description="Seed of the random weights.")


class RandomEncoder(Backbone):
    """What the two encoders share: frozen random weights, and maps that are measured on one image."""

    def __init__(self, name: str, network: nn.Module, image_size: int, names: Sequence[str]) -> None:
        self.name = name
        self.network = network.eval().requires_grad_(False)
        self.preprocessing = Preprocessing(image_size, image_size)
        with torch.inference_mode():
            maps = self.forward(smooth_images(1, image_size), names)
        self.layers = tuple(
            Layer(layer, found.shape[1], found.shape[2], found.shape[3], signed=bool(found.min() < 0))
            for layer, found in zip(names, maps, strict=True)
        )
        self.final_layer = self.layers[-1].name
        self.fingerprint = backbone_fingerprint(name, network, self.preprocessing)

    def to(self, device: torch.device) -> None:
        """Move the weights to a device."""
        self.network.to(device)

    def forward(self, images: Tensor, layers: Sequence[str]) -> list[Tensor]:
        """Maps [B, C_i, H_i, W_i] of the named layers; images float32 [B, 3, S, S]."""
        maps = self.network(images)
        return [maps[name] for name in layers]


class _Pyramid(nn.Module):
    """Convolutions of stride 2; every second map comes out of a ReLU, the others take negative values."""

    def __init__(self, stages: int) -> None:
        super().__init__()
        widths = (3, 8, 12, 16, 24, 32)[: stages + 1]
        self.convolutions = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(1, b)) for a, b in pairwise(widths)
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = {}
        for index, convolution in enumerate(self.convolutions):
            images = convolution(images)
            if index % 2 == 0:
                images = F.relu(images)
            maps[f"stride{2 ** (index + 1)}"] = images
        return maps


class _Block(nn.Module):
    """Attention and perceptron, each after a norm and beside a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        parts = self.qkv(self.norm1(tokens)).chunk(3, dim=2)
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + self.projection(attended)
        result: Tensor = tokens + self.mlp(self.norm2(tokens))
        return result


class _Transformer(nn.Module):
    """Patches of 8 x 8 pixels behind one class and four register tokens; the final map is normalised."""

    def __init__(self, blocks: int, side: int, width: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.side = side
        self.embed = nn.Conv2d(3, width, PATCH, stride=PATCH)
        self.positions = nn.Parameter(torch.randn(1, side * side, width))
        self.prefix = nn.Parameter(torch.randn(1, PREFIX_TOKENS, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        patches = self.embed(images).flatten(2).transpose(1, 2) + self.positions
        tokens = torch.cat([self.prefix.expand(len(images), -1, -1), patches], dim=1)
        maps = {}
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
            maps[f"block{index}"] = self._map(tokens)
            maps[f"prefix{index}"] = tokens[:, :PREFIX_TOKENS].transpose(1, 2)[:, :, None]
        maps["final"] = self._map(self.norm(tokens))
        return maps

    def _map(self, tokens: Tensor) -> Tensor:
        patches = tokens[:, PREFIX_TOKENS:].transpose(1, 2)
        return patches.reshape(len(tokens), -1, self.side, self.side)


class RandomCnn(RandomEncoder):
    """Maps of 8, 12, 16, 24 and 32 channels at strides 2 to 32, named "stride2" and so on; family "cnn"."""

    family: Literal["cnn", "vit"] = "cnn"

    def __init__(self, options: RandomCnnOptions) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            network = _Pyramid(options.stages)
        super().__init__(CNN, network, options.image_size, [f"stride{2 ** (i + 1)}" for i in range(options.stages)])


class RandomVit(RandomEncoder):
    """Blocks of width 32, named "block0" and so on, their class and register tokens "prefix0", and "final".

    Raises:
        PluginError: the image size is no multiple of 8.
    """

    family: Literal["cnn", "vit"] = "vit"

    def __init__(self, options: RandomVitOptions) -> None:
        if options.image_size % PATCH:
            raise PluginError(f"The encoder '{VIT}' cuts images into patches of 8x8: 'image_size' must be a multiple.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            network = _Transformer(options.blocks, options.image_size // PATCH)
        numbers = range(options.blocks)
        names = [*(f"block{i}" for i in numbers), *(f"prefix{i}" for i in numbers), "final"]
        super().__init__(VIT, network, options.image_size, names)


def smooth_images(count: int, size: int, seed: int = 0) -> Tensor:
    """Random clouds with a little grain, as an encoder takes them: float32 [count, 3, size, size]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 6, 6, generator=generator)
    grain = torch.randn(count, 3, size, size, generator=generator)
    return F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False) + 0.1 * grain


@hookimpl
def meds_backbones() -> list[Plugin]:
    """The encoders `random-cnn` and `random-vit`."""
    return [
        Plugin(CNN, RandomCnnOptions, f"{__name__}:{RandomCnn.__name__}", "Five random convolutions, for checks."),
        Plugin(VIT, RandomVitOptions, f"{__name__}:{RandomVit.__name__}", "A random transformer, for checks."),
    ]
