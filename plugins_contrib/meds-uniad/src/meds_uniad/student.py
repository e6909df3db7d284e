"""UniAD (You et al., "A Unified Model for Multi-class Anomaly Detection", NeurIPS 2022) as a student."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meds.api import (
    Backbone,
    EvaluationDefaults,
    Layer,
    PluginError,
    Progress,
    Student,
    TrainingDefaults,
    layers_at_strides,
    on_grid,
)

from . import UniADOptions
from .transformer import DecoderLayer, EncoderLayer, PositionEmbedding, neighbour_mask

STRIDES = (2, 4, 8, 16)


class UniAD(Student):
    """Rebuilds the joined layers of a backbone from learned queries; no patch sees its own neighbourhood."""

    options: UniADOptions
    mask: Tensor

    def __init__(self, options: UniADOptions, layers: Sequence[Layer], class_names: Sequence[str]) -> None:
        """Xavier-uniform weights and biases of 0 (released code).

        Raises:
            PluginError: the square of `neighbours` leaves some position nothing to look at.
        """
        super().__init__(options, layers, class_names)
        height, width = layers[0].height, layers[0].width
        channels = sum(layer.channels for layer in layers)
        shape = (options.width, options.heads, options.feedforward, options.dropout)
        self.register_buffer("mask", _mask(options, height, width), persistent=False)
        self.project = nn.Linear(channels, options.width)
        self.position = PositionEmbedding(height, width, options.width)
        self.encoder = nn.ModuleList(EncoderLayer(*shape) for _ in range(options.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(height * width, *shape) for _ in range(options.decoder_layers))
        self.norm = nn.LayerNorm(options.width)
        self.rebuild = nn.Linear(options.width, channels)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    @classmethod
    def layers_needed(cls, options: Any, backbone: Backbone) -> tuple[str, ...]:
        """The layers on one square grid.

        Raises:
            PluginError: the backbone lacks a layer, or the square of `neighbours` leaves some position nothing.
        """
        names = options.layers
        if names is None:
            cnn = backbone.family == "cnn"
            names = layers_at_strides("uniad", STRIDES, backbone) if cnn else [backbone.final_layer]
        chosen = [backbone.layer(name) for name in names]
        grid = options.grid or min(layer.height for layer in chosen)
        _mask(options, grid, grid)  # refused here, an impossible mask costs no work
        there = [(layer.height, layer.width) == (grid, grid) for layer in chosen]
        return tuple(name if fits else on_grid(name, grid) for name, fits in zip(names, there, strict=True))

    def targets(self, features: Sequence[Tensor]) -> list[Tensor]:
        """One map [B, sum of channels, H, W], the layers joined, detached."""
        return [torch.cat([feature.detach() for feature in features], dim=1)]

    def forward(self, features: Sequence[Tensor], classes: Tensor) -> list[Tensor]:  # noqa: ARG002
        """The reconstruction, with the target's shape; classes do not matter. In training the input is jittered."""
        joined = torch.cat(list(features), dim=1)
        tokens = joined.flatten(2).transpose(1, 2)
        if self.training:
            tokens = self._jittered(tokens)
        position = self.position()
        memory = self.project(tokens)
        for layer in self.encoder:
            memory = layer(memory, position, self.mask)
        previous = memory
        for layer in self.decoder:
            previous = layer(memory, previous, position, self.mask)
        rebuilt = self.rebuild(self.norm(previous))
        return [rebuilt.transpose(1, 2).reshape(joined.shape)]

    def _jittered(self, tokens: Tensor) -> Tensor:
        """Normal noise whose standard deviation is `jitter_scale` times a token's norm over its width (sec. 3.3)."""
        options = self.options
        if options.jitter_scale == 0 or float(torch.rand(())) > options.jitter_probability:
            return tokens
        size = tokens.norm(dim=2, keepdim=True) / tokens.shape[2] * options.jitter_scale
        return tokens + torch.randn_like(tokens) * size

    def loss(self, targets: Sequence[Tensor], outputs: Sequence[Tensor], progress: Progress) -> Tensor:  # noqa: ARG002
        """Mean squared error against the features without jitter; scalar."""
        return F.mse_loss(outputs[0].float(), targets[0].float())

    def anomaly_maps(self, targets: Sequence[Tensor], outputs: Sequence[Tensor], distance: Any) -> list[Tensor]:
        """The root of the squared difference, summed over channels."""
        if self.options.map == "distance":
            return super().anomaly_maps(targets, outputs, distance)
        return [(outputs[0].float() - targets[0].float()).square().sum(dim=1).sqrt()]

    def training_defaults(self) -> TrainingDefaults:
        """AdamW with batches of 64 for 1000 epochs, the rate lowered once, gradients clipped at 0.1 (released code)."""
        options = self.options

        def optimiser(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
            return torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=options.weight_decay)

        def learning_rate(iteration: int, total: int) -> float:
            return options.learning_rate * (0.1 if iteration >= options.drop_at * total else 1.0)

        return TrainingDefaults(
            optimiser=optimiser,
            learning_rate=learning_rate,
            batch_size=options.batch_size,
            epochs=options.epochs,
            clip_norm=options.clip_norm,
        )

    def evaluation_defaults(self) -> EvaluationDefaults:
        """Map resized to 224 with aligned corners, not smoothed; largest of its 16x16 means (released code)."""
        return EvaluationDefaults(
            map_size=224,
            align_corners=True,
            smoothing="none",
            image_score="pooled-max",
            pool_window=16,
            mask_rule="any",
            mask_resize="nearest",
        )


def _mask(options: UniADOptions, height: int, width: int) -> Tensor:
    """The mask of `neighbour_mask`; PluginError if it leaves some position nothing to look at."""
    mask = neighbour_mask(height, width, options.neighbours)
    if bool(mask.all(dim=1).any()):
        raise PluginError(
            f"The student 'uniad' forbids a patch to look at the {options.neighbours}x{options.neighbours} patches "
            f"around it, which is all that some have on a grid of {height}x{width}: set 'neighbours' lower or take "
            "a larger image."
        )
    return mask
