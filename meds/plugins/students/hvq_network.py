"""The student HVQ-Trans: a transformer that rebuilds the teacher's features from codebooks of their class.

Source: R. Lu et al., "Hierarchical Vector Quantized Transformer for Multi-class Unsupervised Anomaly Detection",
NeurIPS 2023, section 3. Where text and released code differ, the code is followed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meds.core.backbone import Backbone, Layer
from meds.core.errors import PluginError
from meds.core.layer_names import on_grid
from meds.core.scoring import Distance
from meds.core.strides import layers_at_strides, named_layers
from meds.core.student import EvaluationDefaults, Progress, Student, TrainingDefaults
from meds.core.weights import load_file
from meds.plugins.students.hvq import HVQOptions
from meds.plugins.students.hvq_checkpoint import from_official
from meds.plugins.students.hvq_layers import Decoder, Encoder, PositionEmbedding
from meds.plugins.students.hvq_quantiser import Codebooks
from meds.plugins.students.precision import at_least_float32

STRIDES = (2, 4, 8, 16)


class HierarchicalVectorQuantisedTransformer(Student):
    """HVQ-Trans on any layers of a backbone, brought to one grid and joined.

    The top encoder layer is quantised; every lower one is quantised together with that result, and the decoder's
    layers read these from deep to raw. Codebooks and the last layer belong to the image's class.
    """

    options: HVQOptions

    def __init__(self, options: HVQOptions, layers: Sequence[Layer], class_names: Sequence[str]) -> None:
        """Values as torch starts its layers.

        Raises:
            PluginError: the option `weights` names a file that cannot be read or does not fit.
        """
        super().__init__(options, layers, class_names)
        channels, classes = sum(layer.channels for layer in layers), len(class_names)
        width, levels = options.width, options.levels
        shape = (options.heads, options.feedforward, options.dropout)
        revive = options.codebook_start == "mended"
        self.project = nn.Conv2d(channels, width, 1)
        self.position = PositionEmbedding(layers[0].height, width)
        self.encoder = Encoder(levels, width, *shape)
        self.top = Codebooks(classes, options.codes, width, options.decay, revive)
        self.lower = Codebooks(levels * classes, options.codes, 2 * width, options.decay, revive)
        self.decoder = Decoder(levels, 2 * width, *shape)
        # A layer for each class, not one tensor of all: a class that a batch lacks must not be decayed.
        self.heads = nn.ModuleList(nn.Linear(2 * width, channels) for _ in class_names)
        self._commitment: Tensor | None = None
        self._transport: Tensor | None = None
        if options.weights is not None:
            load_file(self, options.weights, from_official)

    @classmethod
    def layers_needed(cls, options: HVQOptions, backbone: Backbone) -> tuple[str, ...]:
        """The layers on one square grid.

        Raises:
            PluginError: the backbone lacks a layer, or is a ViT and no layers are named.
        """
        names = _default_layers(backbone) if options.layers is None else options.layers
        chosen = named_layers("hvq", names, backbone)
        grid = options.grid or min(layer.height for layer in chosen)
        there = [(layer.height, layer.width) == (grid, grid) for layer in chosen]
        return tuple(name if fits else on_grid(name, grid) for name, fits in zip(names, there, strict=True))

    def targets(self, features: Sequence[Tensor]) -> list[Tensor]:
        """One map [B, sum of channels, grid, grid]: the layers joined; float32 (float64 stays), detached."""
        return [at_least_float32(torch.cat([feature.detach() for feature in features], dim=1))]

    def forward(self, features: Sequence[Tensor], classes: Tensor) -> list[Tensor]:
        """The reconstruction, with the targets' shape; in training mode the codebooks of the classes move.

        Raises:
            IndexError: a class index is none of the student's classes.
        """
        indices = self._class_indices(classes)
        joined = torch.cat([feature.to(self.project.weight.dtype) for feature in features], dim=1)
        tokens = self.project(joined).flatten(2).transpose(1, 2)
        position = self.position()
        stages = self.encoder(tokens, position)
        top = self.top(stages[-1], indices)
        levels = [torch.cat([stage, top.values], dim=2) for stage in reversed(stages[:-1])]
        books = [self._book(level, index) for level in range(len(levels)) for index in indices]
        lower = self.lower(torch.cat(levels), books)
        decoded = self.decoder(lower.values.chunk(len(levels)), torch.cat([position, position], dim=1))
        # The batch's mean for each codebook, summed over the codebooks.
        self._commitment = (top.commitment.sum() + lower.commitment.sum()) / len(indices)
        self._transport = None
        if self.options.transport_score and not self.training:
            finest = [self._book(len(levels) - 1, index) for index in indices]
            scores = self.lower.transport_score(levels[-1], finest)
            self._transport = scores.reshape(len(indices), *joined.shape[2:])
        rebuilt = torch.stack([self.heads[index](one) for index, one in zip(indices, decoded, strict=True)])
        return [rebuilt.transpose(1, 2).reshape(joined.shape)]

    def _class_indices(self, classes: Tensor) -> list[int]:
        indices = [int(index) for index in classes.tolist()]
        for index in indices:
            if not 0 <= index < len(self.class_names):
                raise IndexError(f"class index {index}: the student has {len(self.class_names)} classes")
        return indices

    def _book(self, level: int, index: int) -> int:
        return level * len(self.class_names) + index

    def loss(self, targets: Sequence[Tensor], outputs: Sequence[Tensor], progress: Progress) -> Tensor:  # noqa: ARG002
        """Mean squared error plus the weighted commitment of the forward pass that made the outputs; scalar.

        Raises:
            RuntimeError: there has been no forward pass since the last loss.
        """
        commitment, self._commitment = self._commitment, None
        if commitment is None:
            raise RuntimeError("the loss of 'hvq' must follow the forward pass that made its outputs")
        (target,), (output,) = targets, outputs
        error = F.mse_loss(at_least_float32(output), at_least_float32(target))
        return error + self.options.commitment_weight * commitment

    def anomaly_maps(self, targets: Sequence[Tensor], outputs: Sequence[Tensor], distance: Distance) -> list[Tensor]:
        """The root of the squared difference summed over channels, plus the weighted transport score if wanted."""
        transport, self._transport = self._transport, None
        if self.options.map == "distance":
            return super().anomaly_maps(targets, outputs, distance)
        (target,), (output,) = targets, outputs
        gaps = (output.float() - target.float()).square().sum(dim=1).sqrt()
        return [gaps if transport is None else gaps + self.options.transport_weight * transport.float()]

    def training_defaults(self) -> TrainingDefaults:
        """AdamW with batch 16 for 1000 epochs, the rate lowered once, gradients clipped at 0.1 (released code)."""
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
        """Map resized to 224 with aligned corners, not smoothed; maximum of its 16x16 means (released code)."""
        return EvaluationDefaults(
            map_size=224,
            align_corners=True,
            smoothing="none",
            image_score="pooled-max",
            pool_window=16,
            mask_rule="any",
            mask_resize="nearest",
        )


def _default_layers(backbone: Backbone) -> list[str]:
    if backbone.family != "cnn":
        raise PluginError(
            f"The student 'hvq' takes its layers by their strides from a CNN, but the backbone '{backbone.name}' is a "
            f"{backbone.family.upper()}: name the layers in the student's option 'layers' or choose a CNN."
        )
    return layers_at_strides("hvq", STRIDES, backbone)
