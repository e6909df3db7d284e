"""The Reverse Distillation student for CNN features, and the conversion of published checkpoints.

Source: H. Deng, X. Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding", CVPR 2022,
section 3. The network itself is in `rd_blocks`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meds.core.backbone import Backbone, Layer
from meds.core.errors import PluginError
from meds.core.strides import layers_at_strides, named_layers
from meds.core.student import EvaluationDefaults, Progress, Student, TrainingDefaults
from meds.core.weights import load_file
from meds.plugins.students.precision import at_least_float32
from meds.plugins.students.rd import RDOptions
from meds.plugins.students.rd_blocks import Decoder, OneClassBottleneck

STRIDES = (4, 8, 16)
HALVES = ("bn", "decoder")


class ReverseDistillation(Student):
    """Reverse Distillation for any CNN backbone with three stages, each half the grid of the one before."""

    options: RDOptions

    def __init__(self, options: RDOptions, layers: Sequence[Layer], class_names: Sequence[str]) -> None:
        super().__init__(options, layers, class_names)
        channels = [layer.channels for layer in layers]
        self.bottleneck = OneClassBottleneck(channels, options.bottleneck_blocks)
        self.decoder = Decoder(channels, options.blocks)
        # The published decoder ends in ReLUs and its teacher's maps come out of ReLUs. Where a teacher's map
        # takes negative values (EfficientNet), a 1x1 convolution lets the reconstruction take them too.
        self.heads = nn.ModuleList(
            nn.Conv2d(layer.channels, layer.channels, 1) if layer.signed else nn.Identity() for layer in layers
        )
        for module in self.modules():
            # Transposed convolutions keep torch's own start, as in the published code.
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if options.weights is not None:
            load_file(self, options.weights, self._from_published)

    def _from_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        parts = {head: {n[len(head) + 1 :]: v for n, v in state.items() if n.startswith(f"{head}.")} for head in HALVES}
        if not all(parts.values()):
            raise PluginError(
                f"The weights file '{self.options.weights}' is no RD4AD checkpoint: it needs the tables 'bn' and "
                "'decoder'."
            )
        heads = {f"heads.{name}": value for name, value in self.heads.state_dict().items()}
        return from_official(parts["bn"], parts["decoder"]) | heads

    @classmethod
    def layers_needed(cls, options: RDOptions, backbone: Backbone) -> tuple[str, ...]:
        """Three layer names from fine to coarse.

        Raises:
            PluginError: the backbone is no CNN, lacks a layer, or the grids do not halve.
        """
        if backbone.family != "cnn":
            raise PluginError(
                f"The student 'rd' needs a CNN with three stages, but the backbone '{backbone.name}' is a "
                f"{backbone.family.upper()}: choose a CNN backbone or another student."
            )
        names = layers_at_strides("rd", STRIDES, backbone) if options.layers is None else options.layers
        _check_layers(names, backbone)
        return tuple(names)

    def targets(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The three teacher maps themselves: float32 (float64 stays), detached, shapes unchanged."""
        return [at_least_float32(feature.detach()) for feature in features]

    def forward(self, features: Sequence[Tensor], classes: Tensor) -> list[Tensor]:  # noqa: ARG002
        """Reconstructions [B, c_i, H_i, W_i] of the three maps; `classes` plays no part.

        Raises:
            PluginError: in training, if the batch is one image and its embedding a single position.
        """
        dtype = next(self.parameters()).dtype
        maps = [value.to(dtype=dtype, memory_format=self._layout(value)) for value in features]
        self._refuse_single_position(maps[-1])
        grids = [(value.shape[-2], value.shape[-1]) for value in maps]
        outputs = self.decoder(self.bottleneck(maps), grids)
        return [head(values) for head, values in zip(self.heads, outputs, strict=True)]

    def _layout(self, values: Tensor) -> torch.memory_format:
        # Channels last is the faster layout (1.4 times in evaluation on a CPU), but torch's batch normalisation
        # and convolution gradients on a CPU make training 1.2 (float32) to 1.6 times (bfloat16) slower in it.
        training_on_cpu = self.training and values.device.type == "cpu"
        return torch.contiguous_format if training_on_cpu else torch.channels_last

    def _refuse_single_position(self, coarse: Tensor) -> None:
        if self.training and coarse.shape[0] == 1 and max(coarse.shape[-2:]) <= 2:
            raise PluginError(
                "The student 'rd' cannot train on a batch of one image this small, because batch "
                "normalisation needs more than one position: use a larger image_size or batch_size, or "
                "`drop_last: true` in the stage, which leaves out the rest of an epoch."
            )

    def loss(self, targets: Sequence[Tensor], outputs: Sequence[Tensor], progress: Progress) -> Tensor:  # noqa: ARG002
        """Sum over the scales of the mean over images of 1 - cos of the flattened maps; scalar in [0, 6].

        Section 3.3 writes a cosine per position; the published code, followed here, flattens each map.
        """
        terms = []
        for target, output in zip(targets, outputs, strict=True):
            pair = (at_least_float32(target).flatten(1), at_least_float32(output).flatten(1))
            terms.append((1 - F.cosine_similarity(*pair, dim=1)).mean())
        return torch.stack(terms).sum()

    def training_defaults(self) -> TrainingDefaults:
        """Adam with batch 16 for 200 epochs, no decay and no clipping (section 4.1)."""
        options = self.options

        def optimiser(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
            return torch.optim.Adam(parameters, lr=options.learning_rate, betas=options.betas)

        def learning_rate(iteration: int, total: int) -> float:
            return options.learning_rate * (1.0 if options.schedule == "constant" else cosine(iteration, total))

        return TrainingDefaults(
            optimiser=optimiser,
            learning_rate=learning_rate,
            batch_size=options.batch_size,
            epochs=options.epochs,
        )

    def evaluation_defaults(self) -> EvaluationDefaults:
        """Scales resized to 256 with aligned corners, Gaussian with sigma 4, maximum (section 3.4)."""
        return EvaluationDefaults(
            map_size=256,
            resize=256,
            align_corners=True,
            smoothing="gaussian",
            sigma=4.0,
            image_score="max",
            mask_rule="half",
        )


def cosine(iteration: int, total: int) -> float:
    """Factor of the learning rate: up to 1 over the first tenth (at most 100 iterations), then down to 0."""
    warm = min(100, total // 10)
    if iteration < warm:
        return (iteration + 1) / (warm + 1)
    return 0.5 * (1.0 + math.cos(math.pi * (iteration - warm) / max(1, total - warm)))


def _check_layers(names: Sequence[str], backbone: Backbone) -> None:
    if len(names) != len(STRIDES):
        raise PluginError(f"The student 'rd' needs exactly three layers, but 'layers' names {len(names)}.")
    chosen = named_layers("rd", names, backbone)
    for fine, coarse in pairwise(chosen):
        halves = all(
            half in (side // 2, -(-side // 2))
            for side, half in ((fine.height, coarse.height), (fine.width, coarse.width))
        )
        if not halves:
            raise PluginError(
                f"The student 'rd' needs layers that halve the grid, but '{fine.name}' is "
                f"{fine.height}x{fine.width} and '{coarse.name}' is {coarse.height}x{coarse.width}."
            )


_BOTTLENECK_NAMES = {
    "conv1": "fuse_fine.0",
    "bn1": "fuse_fine.1",
    "conv2": "fuse_fine.3",
    "bn2": "fuse_fine.4",
    "conv3": "fuse_middle.0",
    "bn3": "fuse_middle.1",
    "bn_layer": "embed",
}


def from_official(bottleneck_state: Mapping[str, Tensor], decoder_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the two state dicts of an RD4AD checkpoint ("bn", "decoder") into one for `ReverseDistillation`.

    `conv4` and `bn4` of the bottleneck are dropped: the published network creates but never uses them.

    Raises:
        PluginError: a name does not belong to such a checkpoint.
    """
    state: dict[str, Tensor] = {}
    for name, value in bottleneck_state.items():
        head, _, rest = name.partition(".")
        if head in ("conv4", "bn4"):
            continue
        if head not in _BOTTLENECK_NAMES:
            raise PluginError(f"'{name}' is no entry of an RD4AD bottleneck checkpoint.")
        state[f"bottleneck.{_BOTTLENECK_NAMES[head]}.{rest.replace('downsample.', 'shortcut.')}"] = value
    for name, value in decoder_state.items():
        match = re.fullmatch(r"layer([123])\.(.+)", name)
        if match is None:
            raise PluginError(f"'{name}' is no entry of an RD4AD decoder checkpoint.")
        rest = match[2].replace("upsample.", "shortcut.")
        state[f"decoder.stages.{int(match[1]) - 1}.{rest}"] = value
    return state
