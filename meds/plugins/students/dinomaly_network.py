"""The Dinomaly student.

Source: J. Guo et al., "Dinomaly: The Less Is More Philosophy in Multi-Class Unsupervised Anomaly Detection", CVPR
2025, section 3, and the published code where they differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from meds.core.backbone import Backbone, Layer
from meds.core.errors import PluginError
from meds.core.layer_names import mean_of, parse
from meds.core.student import EvaluationDefaults, Progress, TrainingDefaults
from meds.plugins.students.dinomaly import DinomalyOptions
from meds.plugins.students.global_cosine import weighted_global_cosine
from meds.plugins.students.linear_attention import linear_attention
from meds.plugins.students.precision import at_least_float32
from meds.plugins.students.transformer_layers import (
    Perceptron,
    group_outputs,
    in_pieces,
    layer_norm,
    start_values,
    to_map,
    to_tokens,
)
from meds.plugins.students.transformer_options import TransformerOptions
from meds.plugins.students.transformer_student import TransformerStudent


class LinearAttention(nn.Module):
    """Attention whose cost is linear in the tokens: out = q (k' v) / (q sum k), q and k through elu + 1 (sec. 3.4)."""

    def __init__(self, width: int, heads: int, epsilon: float) -> None:
        super().__init__()
        self.heads, self.epsilon = heads, epsilon
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        result: Tensor = self.proj(linear_attention(self.qkv(tokens), self.heads, self.epsilon))
        return result


class DecoderBlock(nn.Module):
    """Pre-norm attention and perceptron with residual connections."""

    def __init__(self, width: int, options: DinomalyOptions, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = layer_norm(width), layer_norm(width)
        self.attn = LinearAttention(width, heads, options.attention_epsilon)
        self.mlp = Perceptron(width, int(width * options.mlp_ratio))

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        tokens = tokens + self.attn(self.norm1(tokens))
        result: Tensor = tokens + self.mlp(self.norm2(tokens))
        return result


class Dinomaly(TransformerStudent):
    """Dinomaly on a ViT as published, or on the maps of a CNN.

    All tokens, the class and register tokens first, pass bottleneck and decoder; only patches are compared.
    """

    options: DinomalyOptions
    name = "dinomaly"

    def __init__(self, options: DinomalyOptions, layers: Sequence[Layer], class_names: Sequence[str]) -> None:
        super().__init__(options, layers, class_names)
        self.hidden = int(self.width * options.mlp_ratio)
        self.bottleneck = nn.ModuleList([Perceptron(self.width, self.hidden, options.dropout, drop_input=True)])
        self.decoder = nn.ModuleList(DecoderBlock(self.width, options, self.heads) for _ in range(options.depth))
        start_values(self)
        self.load_published()

    @classmethod
    def layers_needed(cls, options: TransformerOptions, backbone: Backbone) -> tuple[str, ...]:
        """The groups' maps and, of a ViT with such tokens, the groups' class and register tokens.

        Raises:
            PluginError: the backbone cannot give the maps, or has no such tokens for a layer.
        """
        names = super().layers_needed(options, backbone)
        prefixes = {layer.name for layer in backbone.layers if layer.name.startswith("prefix")}
        if backbone.family != "vit" or not prefixes:
            return names
        for base in (term.base for name in names for term in parse(name)):
            if _prefix_of(base) not in prefixes:
                raise PluginError(
                    f"The student 'dinomaly' needs class and register tokens for every layer, which the backbone "
                    f"'{backbone.name}' has for its blocks but not for '{base}': name blocks alone in 'layers'."
                )
        return (*names, *(mean_of([_prefix_of(term.base) for term in parse(name)]) for name in names))

    def forward(self, features: Sequence[Tensor], classes: Tensor) -> list[Tensor]:  # noqa: ARG002
        """Reconstructions [B, C, H, W] of the groups; `classes` plays no part."""
        maps = self.teacher_maps(features)
        height, width = maps[0].shape[-2:]
        tokens = to_tokens(self.fused(maps))
        prefix = features[len(maps) :]
        if prefix:
            tokens = torch.cat([to_tokens(self.fused(prefix)), tokens], dim=1)
        for part in self.bottleneck:
            tokens = part(tokens)
        # All blocks add to these. In half precision the rounding of the sums would tell in the loss.
        tokens = at_least_float32(tokens)
        pieces = in_pieces(tokens, self.hidden) if self.training else [slice(None)]
        decoded = [self._decode(tokens[piece]) for piece in pieces]
        groups = decoded[0] if len(decoded) == 1 else [torch.cat(group) for group in zip(*decoded, strict=True)]
        patches = height * width
        return [to_map(group[:, -patches:], height, width) for group in groups]

    def _decode(self, tokens: Tensor) -> list[Tensor]:
        """The groups' tokens [B, N, C] from those of the bottleneck."""
        outputs = []
        for block in self.decoder:
            tokens = block(tokens)
            outputs.append(tokens)
        return group_outputs(outputs, self.taps)

    def loss(self, targets: Sequence[Tensor], outputs: Sequence[Tensor], progress: Progress) -> Tensor:
        """Global cosine loss with hard mining (sec. 3.5); scalar in [0, 2].

        The gradient of the best-rebuilt share of the batch's patches is multiplied by `discard_factor`.
        """
        rate = self.options.discard_rate
        if progress.iteration < self.options.discard_warmup:
            rate = min(rate * progress.iteration / self.options.discard_warmup, rate)
        weigh = partial(mining_weights, rate=rate, factor=self.options.discard_factor)
        return weighted_global_cosine(targets, outputs, weigh)

    def training_defaults(self) -> TrainingDefaults:
        """StableAdamW, warm-up and cosine, batch 16, 10,000 iterations (one class: 5,000), clip 0.1 (sec. 4.1)."""
        options = self.options
        iterations = options.iterations or (10_000 if len(self.class_names) > 1 else 5_000)
        return self.stable_adamw(options.learning_rate, options.final_learning_rate, iterations)

    def evaluation_defaults(self) -> EvaluationDefaults:
        """The shared evaluation; every mask pixel that is not zero counts as a defect."""
        return self.shared_evaluation("any")


def _prefix_of(block: str) -> str:
    return f"prefix{block.removeprefix('block')}"


def mining_weights(distances: Tensor, rate: float, factor: float) -> Tensor:
    """Factor of the gradient at each patch: `factor` strictly below the k-th largest distance, 1 elsewhere.

    k = int(count * (1 - rate)) over the whole batch, in double precision as published: 200 patches at a rate of
    0.9 give 19.
    """
    count = max(1, int(distances.numel() * (1 - rate)))
    threshold = distances.flatten().topk(count).values[-1]
    return torch.ones_like(distances).masked_fill_(distances < threshold, factor)
