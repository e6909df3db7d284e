"""Transformer layers of HVQ-Trans: position embedding, encoder and the decoder that reads one memory a layer.

Source: R. Lu et al., "Hierarchical Vector Quantized Transformer for Multi-class Unsupervised Anomaly Detection",
NeurIPS 2023, section 3. Tokens are [B, N, C]; layers normalise after each residual sum; names of parameters are
those of torch's own transformer layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PositionEmbedding(nn.Module):
    """Learned position embedding of a square grid: one half of the channels for the column, one for the row."""

    def __init__(self, grid: int, width: int) -> None:
        super().__init__()
        self.columns = nn.Parameter(torch.rand(grid, width // 2))
        self.rows = nn.Parameter(torch.rand(grid, width // 2))

    def forward(self) -> Tensor:
        """[grid * grid, width], row by row."""
        grid, half = self.rows.shape
        columns = self.columns[None].expand(grid, grid, half)
        rows = self.rows[:, None].expand(grid, grid, half)
        return torch.cat([columns, rows], dim=2).flatten(0, 1)


class Attention(nn.Module):
    """Multi-head attention whose keys and values come from different tokens.

    Parameters and start values are those of torch's own module, which copies its weights for every image of a
    bfloat16 batch on a CPU, which makes this student four times slower there.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Query, key and value tokens [B, N, C] -> [B, N, C]."""
        parts = zip((query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        split = [F.linear(tokens, weight, bias) for tokens, weight, bias in parts]
        query, key, value = (tokens.reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2) for tokens in split)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        result: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return result


class _Layer(nn.Module):
    """What encoder and decoder layers share: self-attention and the feed-forward network."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads, dropout)
        self.linear1 = nn.Linear(width, feedforward)
        self.linear2 = nn.Linear(feedforward, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def _attend_to_itself(self, tokens: Tensor, position: Tensor) -> Tensor:
        placed = tokens + position
        attended = self.self_attn(placed, placed, tokens)
        normed: Tensor = self.norm1(tokens + self.dropout(attended))
        return normed

    def _feed_forward(self, tokens: Tensor) -> Tensor:
        hidden = self.dropout(F.relu(self.linear1(tokens)))
        result: Tensor = tokens + self.dropout(self.linear2(hidden))
        return result


class EncoderLayer(_Layer):
    """Self-attention and feed-forward network; the position enters queries and keys, not values."""

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        """Tokens [B, N, C] and position [N, C] -> [B, N, C]."""
        tokens = self._attend_to_itself(tokens, position)
        normed: Tensor = self.norm2(self._feed_forward(tokens))
        return normed


class DecoderLayer(_Layer):
    """Self-attention, attention to a memory of the same grid, feed-forward network."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__(width, heads, feedforward, dropout)
        self.multihead_attn = Attention(width, heads, dropout)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, memory: Tensor, position: Tensor) -> Tensor:
        """Tokens and memory [B, N, C] and position [N, C] -> [B, N, C]."""
        tokens = self._attend_to_itself(tokens, position)
        attended = self.multihead_attn(tokens + position, memory + position, memory)
        tokens = self.norm2(tokens + self.dropout(attended))
        normed: Tensor = self.norm3(self._feed_forward(tokens))
        return normed


def _copies(layer: nn.Module, count: int) -> nn.ModuleList:
    """As in the published code, all layers of a stack start with the same values."""
    return nn.ModuleList(deepcopy(layer) for _ in range(count))


class Encoder(nn.Module):
    """A stack of encoder layers whose every stage is kept."""

    def __init__(self, levels: int, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.layers = _copies(EncoderLayer(width, heads, feedforward, dropout), levels)

    def forward(self, tokens: Tensor, position: Tensor) -> list[Tensor]:
        """Tokens [B, N, C] -> the tokens themselves and the output of each layer."""
        stages = [tokens]
        for layer in self.layers:
            stages.append(layer(stages[-1], position))
        return stages


class Decoder(nn.Module):
    """A stack of decoder layers, each with a memory of its own; it starts from the first memory."""

    def __init__(self, levels: int, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.layers = _copies(DecoderLayer(width, heads, feedforward, dropout), levels)
        self.norm = nn.LayerNorm(width)

    def forward(self, memories: Sequence[Tensor], position: Tensor) -> Tensor:
        """One memory [B, N, C] for each layer, from deep to raw, and the position [N, C] -> [B, N, C]."""
        tokens = memories[0]
        for layer, memory in zip(self.layers, memories, strict=True):
            tokens = layer(tokens, memory, position)
        normed: Tensor = self.norm(tokens)
        return normed
