"""The INP-Former student.

Source: W. Luo et al., "Exploring Intrinsic Normal Prototypes within a Single Image for Universal Anomaly Detection",
CVPR 2025, section 3, and the published code where they differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meds.core.backbone import Layer
from meds.core.student import EvaluationDefaults, Progress, TrainingDefaults
from meds.plugins.students.global_cosine import weighted_global_cosine
from meds.plugins.students.inp_former import INPFormerOptions
from meds.plugins.students.transformer_layers import (
    Perceptron,
    group_outputs,
    join_heads,
    layer_norm,
    split_heads,
    start_values,
    to_map,
    to_tokens,
)
from meds.plugins.students.transformer_student import TransformerStudent


class CrossAttention(nn.Module):
    """Projections of queries, keys and values; what is done with them differs between the two uses."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def parts(self, queries: Tensor, sources: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, N, C] and [B, M, C] -> query [B, h, N, D], key and value [B, h, M, D]."""
        key, value = self.kv(sources).chunk(2, dim=2)
        return tuple(split_heads(part, self.heads) for part in (self.q(queries), key, value))  # type: ignore[return-value]


class SoftmaxAttention(CrossAttention):
    """Scaled dot-product attention, by which prototypes gather the tokens of an image (sec. 3.2)."""

    def forward(self, queries: Tensor, sources: Tensor) -> Tensor:
        """[B, N, C] from [B, M, C] -> [B, N, C]."""
        query, key, value = self.parts(queries, sources)
        result: Tensor = self.proj(join_heads(F.scaled_dot_product_attention(query, key, value)))
        return result


class PrototypeAttention(CrossAttention):
    """Attention to prototypes with cosines through a ReLU as weights, no softmax and no norm (sec. 3.3)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.learn_scale = nn.Parameter(torch.ones(heads, 1, 1))

    def forward(self, queries: Tensor, sources: Tensor) -> Tensor:
        """[B, N, C] from [B, M, C] -> [B, N, C]."""
        query, key, value = self.parts(queries, sources)
        cosines = F.normalize(query, dim=3) @ F.normalize(key, dim=3).transpose(2, 3)
        weights = F.relu(cosines * self.learn_scale).to(value.dtype)
        result: Tensor = self.proj(join_heads(weights @ value))
        return result


class Extractor(nn.Module):
    """The prototypes of an image: learned vectors that attend to its tokens once; one norm serves both."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = layer_norm(width), layer_norm(width)
        self.attn = SoftmaxAttention(width, heads)
        self.mlp = Perceptron(width, hidden)

    def forward(self, prototypes: Tensor, tokens: Tensor) -> Tensor:
        """[B, P, C] and [B, N, C] -> [B, P, C]."""
        prototypes = prototypes + self.attn(self.norm1(prototypes), self.norm1(tokens))
        result: Tensor = prototypes + self.mlp(self.norm2(prototypes))
        return result


class DecoderBlock(nn.Module):
    """Tokens become combinations of prototypes: no residual around the attention, one around the perceptron."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = layer_norm(width), layer_norm(width)
        self.attn = PrototypeAttention(width, heads)
        self.mlp = Perceptron(width, hidden)

    def forward(self, tokens: Tensor, prototypes: Tensor) -> Tensor:
        """[B, N, C] and [B, P, C] -> [B, N, C]."""
        tokens = self.attn(self.norm1(tokens), self.norm1(prototypes))
        result: Tensor = tokens + self.mlp(self.norm2(tokens))
        return result


class INPFormer(TransformerStudent):
    """INP-Former on a ViT as published, or on the maps of a CNN; class and register tokens play no part."""

    options: INPFormerOptions
    name = "inp-former"

    def __init__(self, options: INPFormerOptions, layers: Sequence[Layer], class_names: Sequence[str]) -> None:
        super().__init__(options, layers, class_names)
        width, heads, hidden = self.width, self.heads, int(self.width * options.mlp_ratio)
        self.bottleneck = nn.ModuleList([Perceptron(width, hidden)])
        self.aggregation = nn.ModuleList([Extractor(width, heads, hidden)])
        self.decoder = nn.ModuleList(DecoderBlock(width, heads, hidden) for _ in range(options.depth))
        start_values(self)
        self.prototype_token = nn.Parameter(torch.randn(options.prototypes, width))
        self._gathering: Tensor | None = None
        self.load_published()

    def forward(self, features: Sequence[Tensor], classes: Tensor) -> list[Tensor]:  # noqa: ARG002
        """Reconstructions [B, C, H, W] of the groups; keeps the gathering loss for `loss`."""
        maps = self.teacher_maps(features)
        height, width = maps[0].shape[-2:]
        tokens = to_tokens(self.fused(maps))
        prototypes = self.prototypes_of(tokens)
        # A term that an earlier pass left, as distillation does, must not enter a later loss.
        self._gathering = gathering_loss(tokens, prototypes) if torch.is_grad_enabled() else None
        for part in self.bottleneck:
            tokens = part(tokens)
        outputs = []
        for block in self.decoder:
            tokens = block(tokens, prototypes)
            outputs.append(tokens)
        return [to_map(group, height, width) for group in group_outputs(outputs, self.taps)]

    def prototypes_of(self, tokens: Tensor) -> Tensor:
        """Intrinsic normal prototypes of each image: fused tokens [B, N, C] -> [B, P, C]."""
        prototypes = self.prototype_token.expand(len(tokens), -1, -1)
        for part in self.aggregation:
            prototypes = part(prototypes, tokens)
        return prototypes

    def loss(self, targets: Sequence[Tensor], outputs: Sequence[Tensor], progress: Progress) -> Tensor:  # noqa: ARG002
        """Global cosine loss with soft mining, and the gathering loss of the last forward pass (sec. 3.4)."""
        weigh = partial(mining_weights, exponent=self.options.mining_exponent)
        total = weighted_global_cosine(targets, outputs, weigh)
        if self._gathering is not None:
            total = total + self.options.gather_weight * self._gathering
            self._gathering = None
        return total

    def training_defaults(self) -> TrainingDefaults:
        """StableAdamW, warm-up and cosine, batch 16, 200 epochs, clipped at 0.1 (sec. 4.1)."""
        options = self.options
        return self.stable_adamw(options.learning_rate, options.final_learning_rate, epochs=options.epochs)

    def evaluation_defaults(self) -> EvaluationDefaults:
        """The shared evaluation; a mask pixel over one half counts as a defect."""
        return self.shared_evaluation("half")


def gathering_loss(tokens: Tensor, prototypes: Tensor) -> Tensor:
    """Mean over tokens [B, N, C] of the smallest 1 - cos to the image's prototypes [B, P, C]; scalar in [0, 2]."""
    with torch.autocast(tokens.device.type, enabled=False):
        directions = F.normalize(prototypes.to(tokens.dtype), dim=2)
        cosines = F.normalize(tokens, dim=2) @ directions.transpose(1, 2)
        return (1 - cosines.amax(dim=2)).mean()


def mining_weights(distances: Tensor, exponent: float) -> Tensor:
    """Factor of the gradient at each patch: (distance / mean distance over the batch) to a power.

    Rounding can put a distance a little below 0, whose broken power would be NaN.
    """
    distances = distances.clamp_min(0)
    return (distances / distances.mean()) ** exponent
