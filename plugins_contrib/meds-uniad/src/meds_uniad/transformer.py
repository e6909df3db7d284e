"""The transformer of UniAD: neighbour-masked attention, an encoder, and a decoder with a query in every layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def neighbour_mask(height: int, width: int, side: int) -> Tensor:
    """Which positions may not look at which: bool [H*W, H*W], True for those in the square of `side` around a position.

    The square is cut at the border. A `side` of 0 forbids nothing.
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    down = (rows.flatten()[:, None] - rows.flatten()[None, :]).abs()
    across = (columns.flatten()[:, None] - columns.flatten()[None, :]).abs()
    return torch.maximum(down, across) < (side + 1) // 2


class PositionEmbedding(nn.Module):
    """A learned vector for each column beside one for each row: [H*W, width], uniform in 0 to 1 at the start."""

    def __init__(self, height: int, width: int, channels: int) -> None:
        super().__init__()
        self.columns = nn.Parameter(torch.rand(width, channels // 2))
        self.rows = nn.Parameter(torch.rand(height, channels // 2))

    def forward(self) -> Tensor:
        """The embedding of every position, row by row."""
        height, width = len(self.rows), len(self.columns)
        across = self.columns[None].expand(height, width, -1)
        down = self.rows[:, None].expand(height, width, -1)
        return torch.cat([across, down], dim=2).flatten(0, 1)


class Attention(nn.Module):
    """Attention, dropout, sum and norm, in this order (post-norm)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, memory: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        """Tokens [B, N, C] look at the memory [B, N, C]; the position [N, C] is added to queries and keys."""
        found, _ = self.attention(tokens + position, memory + position, memory, attn_mask=mask, need_weights=False)
        normed: Tensor = self.norm(tokens + self.dropout(found))
        return normed


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between, dropout, sum and norm."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, inner), nn.Linear(inner, width)
        self.inner_dropout, self.dropout = nn.Dropout(dropout), nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        found = self.second(self.inner_dropout(F.relu(self.first(tokens))))
        normed: Tensor = self.norm(tokens + self.dropout(found))
        return normed


class EncoderLayer(nn.Module):
    """Masked self-attention and a feed-forward part."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.feedforward = FeedForward(width, inner, dropout)

    def forward(self, tokens: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        found: Tensor = self.feedforward(self.attention(tokens, tokens, position, mask))
        return found


class DecoderLayer(nn.Module):
    """A learned query for each position, which looks at the encoder's result and then at the layer before (sec. 3.2).

    A layer of the decoder begins with its query and not with the features, so that it cannot pass them on as they are.
    """

    def __init__(self, positions: int, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(positions, width))
        self.to_memory = Attention(width, heads, dropout)
        self.to_previous = Attention(width, heads, dropout)
        self.feedforward = FeedForward(width, inner, dropout)

    def forward(self, memory: Tensor, previous: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        """The encoder's result and the previous layer's, [B, N, C] each -> [B, N, C]."""
        tokens = self.query.expand(len(memory), -1, -1)
        tokens = self.to_memory(tokens, memory, position, mask)
        tokens = self.to_previous(tokens, previous, position, mask)
        found: Tensor = self.feedforward(tokens)
        return found
