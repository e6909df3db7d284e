"""What Dinomaly and INP-Former share as students: teacher groups, training, evaluation, published checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from meds.core.backbone import Backbone, Layer
from meds.core.layer_names import parse
from meds.core.student import EvaluationDefaults, Student, TrainingDefaults
from meds.core.weights import load_file
from meds.plugins.students.learning_rates import warm_cosine
from meds.plugins.students.precision import at_least_float32
from meds.plugins.students.stable_adamw import StableAdamW
from meds.plugins.students.teacher_groups import CNN_WIDTH, Projection, heads_for, teacher_layers
from meds.plugins.students.transformer_options import TransformerOptions


class TransformerStudent(Student):
    """Base of the two students: groups of teacher maps on one grid and of one width."""

    name: ClassVar[str]
    options: TransformerOptions

    def __init__(self, options: TransformerOptions, layers: Sequence[Layer], class_names: Sequence[str]) -> None:
        super().__init__(options, layers, class_names)
        groups = [layer for layer in layers if not layer.name.startswith("prefix")]
        self.taps = [len(parse(layer.name)) for layer in groups]
        channels = [layer.channels for layer in groups]
        # Only the maps of a CNN come with a grid in their names.
        on_cnn = any(term.grid is not None for layer in groups for term in parse(layer.name))
        self.width = (options.width or CNN_WIDTH) if on_cnn else channels[0]
        self.projection = Projection(channels, self.width) if on_cnn else None
        self.heads = heads_for(self.name, options, self.width)

    @classmethod
    def layers_needed(cls, options: TransformerOptions, backbone: Backbone) -> tuple[str, ...]:
        """The groups' maps; PluginError if the backbone cannot give them."""
        return teacher_layers(cls.name, options, backbone)

    def teacher_maps(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The groups' maps [B, C, H, W] at one width, at least float32, detached."""
        maps = [at_least_float32(value.detach()) for value in features[: len(self.taps)]]
        if self.projection is None:
            return maps
        with torch.autocast(maps[0].device.type, enabled=False):
            projected: list[Tensor] = self.projection(maps)
        return projected

    def targets(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The mean map of every group, [B, C, H, W] at least float32."""
        return self.teacher_maps(features)

    def fused(self, groups: Sequence[Tensor]) -> Tensor:
        """The mean over all tapped layers from the means of the groups."""
        total = sum(self.taps)
        parts = [at_least_float32(value) * (taps / total) for value, taps in zip(groups, self.taps, strict=True)]
        return torch.stack(parts).sum(dim=0)

    def stable_adamw(
        self, base: float, final: float, iterations: int | None = None, epochs: int | None = None
    ) -> TrainingDefaults:
        """StableAdamW with warm-up and cosine, clipped, the last small batch left out."""
        options = self.options

        def optimiser(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
            return StableAdamW(
                parameters, lr=base, eps=options.optimiser_epsilon, weight_decay=options.weight_decay, amsgrad=True
            )

        def learning_rate(iteration: int, total: int) -> float:
            return warm_cosine(iteration, total, base, final, options.warmup_iterations)

        return TrainingDefaults(
            optimiser=optimiser,
            learning_rate=learning_rate,
            batch_size=options.batch_size,
            iterations=iterations,
            epochs=epochs,
            clip_norm=options.clip_norm,
            drop_last=True,
        )

    def shared_evaluation(self, mask_rule: Literal["half", "any"]) -> EvaluationDefaults:
        """Groups to the input's size (corners aligned), mean, to 256, 5 x 5 Gaussian, mean of the largest percent."""
        side = max(self.layers[0].height, self.layers[0].width)
        return EvaluationDefaults(
            map_size=256,
            resize=side * self.options.patch_size,
            align_corners=True,
            smoothing="gaussian5",
            sigma=4.0,
            image_score="top",
            top_fraction=0.01,
            mask_rule=mask_rule,
        )

    def load_published(self) -> None:
        """Load the checkpoint of the option `weights`, whose names are ours, an encoder in it being left out.

        Raises:
            PluginError: the file does not fit.
        """
        if self.options.weights is not None:
            load_file(self, self.options.weights, self._from_published)

    def _from_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own = {name: value for name, value in self.state_dict().items() if name.startswith("projection.")}
        return {name: value for name, value in state.items() if not name.startswith("encoder.")} | own
