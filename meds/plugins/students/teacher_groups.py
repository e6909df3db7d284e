"""Which teacher maps the transformer students rebuild, on a ViT as published and on a CNN by a fixed projection."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from meds.core.backbone import Backbone, Layer
from meds.core.errors import PluginError
from meds.core.layer_names import mean_of, on_grid
from meds.core.strides import named_layers
from meds.plugins.students.transformer_layers import decoder_shares
from meds.plugins.students.transformer_options import TransformerOptions

TAPS = 8
GROUPS = 2
CNN_STRIDES = (8, 16)
CNN_WIDTH = 256
ENOUGH_POSITIONS = 14
PROJECTION_SEED = 0


def block_groups(count: int) -> list[list[str]]:
    """Eight blocks of a ViT of `count` blocks, in two groups: 2-5 and 6-9 of 12; 4, 6, ..., 18 of 24.

    Of any other number, eight places evenly from a sixth to three quarters of it, each named once.
    """
    first, last = count / 6, min(3 * count / 4, count - 1)
    taps = list(dict.fromkeys(round(first + i * (last - first) / (TAPS - 1)) for i in range(TAPS)))
    middle = (len(taps) + 1) // 2
    return [[f"block{i}" for i in part] for part in (taps[:middle], taps[middle:])]


def teacher_layers(name: str, options: TransformerOptions, backbone: Backbone) -> tuple[str, ...]:
    """Names of the groups' maps, one (derived) layer for each group.

    Raises:
        PluginError: the backbone lacks a layer, or the groups do not fit together.
    """
    groups = _groups(name, options, backbone)
    layers = named_layers(name, [layer for group in groups for layer in group], backbone, derived=False)
    if decoder_shares([len(group) for group in groups], options.depth) is None:
        raise PluginError(
            f"The student '{name}' cannot share {options.depth} decoder blocks among {len(groups)} groups of layers: "
            "change 'depth' or 'layers'."
        )
    if backbone.family == "vit":
        _check_vit(name, options, backbone, groups)
        return tuple(mean_of(group) for group in groups)
    side = options.grid or _cnn_grid(layers)
    names = tuple(mean_of([on_grid(layer, side) for layer in group]) for group in groups)
    for group, derived in zip(groups, names, strict=True):
        try:
            backbone.layer(derived)
        except PluginError:
            raise PluginError(
                f"The student '{name}' cannot take the mean of {', '.join(group)}, which differ in channels: put "
                "them into groups of their own."
            ) from None
    return names


def _check_vit(name: str, options: TransformerOptions, backbone: Backbone, groups: Sequence[Sequence[str]]) -> None:
    for option in ("grid", "width"):
        if getattr(options, option) is not None:
            raise PluginError(
                f"The option '{option}' of the student '{name}' is for a CNN's maps, but the backbone "
                f"'{backbone.name}' is a ViT: leave it out."
            )
    for layer in (layer for group in groups for layer in group):
        if layer.startswith("prefix"):
            raise PluginError(
                f"The student '{name}' rebuilds maps of patches, but the layer '{layer}' of the backbone "
                f"'{backbone.name}' holds other tokens: name blocks in 'layers'."
            )


def _groups(name: str, options: TransformerOptions, backbone: Backbone) -> list[list[str]]:
    if options.layers is not None:
        return options.layers
    if backbone.family == "vit":
        return block_groups(sum(layer.name.startswith("block") for layer in backbone.layers))
    size = backbone.preprocessing.size
    found = []
    for stride in CNN_STRIDES:
        fitting = [layer.name for layer in backbone.layers if layer.name.partition("_")[0] == f"stride{stride}"]
        found += [[layer] for layer in fitting[:1]]
    if len(found) == GROUPS:
        return found
    if len(backbone.layers) < GROUPS:
        raise PluginError(
            f"The student '{name}' needs two maps, but the backbone '{backbone.name}' at {size} pixels has only "
            f"{len(backbone.layers)}: give 'layers'."
        )
    return [[layer.name] for layer in backbone.layers[-GROUPS:]]


def _cnn_grid(layers: Sequence[Layer]) -> int:
    coarse = min(min(layer.height, layer.width) for layer in layers)
    return coarse if coarse >= ENOUGH_POSITIONS else max(max(layer.height, layer.width) for layer in layers)


class Projection(nn.Module):
    """Brings a CNN's maps to one width by fixed random matrices, and to one scale.

    A map with fewer channels than the width is embedded without changing any angle (orthonormal columns); one with
    more is projected onto random directions. The matrices depend on the shapes only, so that every student, seed
    and run sees the same targets. Every map is divided by its root mean square over the image, so that the groups
    weigh the same in the mean that the decoder starts from.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(PROJECTION_SEED)
        for index, count in enumerate(channels):
            drawn = torch.randn(max(width, count), min(width, count), generator=generator, device="cpu")
            columns = torch.linalg.qr(drawn).Q
            self.register_buffer(f"matrix{index}", columns if count <= width else columns.T.contiguous())

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """[B, C_i, H, W] for each group -> [B, width, H, W] for each group."""
        result = []
        for index, values in enumerate(maps):
            matrix = self.get_buffer(f"matrix{index}").to(values.dtype)
            scale = values.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
            result.append(torch.einsum("wc,bchx->bwhx", matrix, values / scale))
        return result


def heads_for(name: str, options: TransformerOptions, width: int) -> int:
    """Attention heads for a token width; PluginError if they do not divide it."""
    heads = options.heads or max(1, width // 64)
    if width % heads:
        raise PluginError(f"The student '{name}' cannot split {width} channels among {heads} heads: set 'heads'.")
    return heads
