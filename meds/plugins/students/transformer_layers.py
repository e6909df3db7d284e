"""Building blocks that Dinomaly and INP-Former share: perceptrons, start values, tokens, groups of blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from meds.plugins.students.precision import at_least_float32

NORM_EPSILON = 1e-8
_PIECE_ELEMENTS = 2**23


class Perceptron(nn.Module):
    """Linear, GELU, linear; dropout on the hidden and the output values, and by choice on the input.

    As a bottleneck it has neither a residual connection nor a norm. Names are those of published checkpoints.
    """

    def __init__(self, width: int, hidden: int, dropout: float = 0.0, drop_input: bool = False) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        self.drop_input = drop_input

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        if self.drop_input:
            tokens = self.dropout(tokens)
        result: Tensor = self.dropout(self.fc2(self.dropout(F.gelu(self.fc1(tokens)))))
        return result


def layer_norm(width: int) -> nn.LayerNorm:
    """A layer norm with the published epsilon of 1e-8."""
    return nn.LayerNorm(width, eps=NORM_EPSILON)


def start_values(module: nn.Module) -> None:
    """Linear weights truncated normal (0.01, cut at 0.03), their biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.01, a=-0.03, b=0.03)
            nn.init.zeros_(part.bias)


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """[B, N, C] -> [B, heads, N, C / heads]."""
    batch, count, width = tokens.shape
    return tokens.view(batch, count, heads, width // heads).transpose(1, 2)


def join_heads(values: Tensor) -> Tensor:
    """[B, heads, N, D] -> [B, N, heads * D]."""
    return values.transpose(1, 2).flatten(2)


def to_tokens(maps: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H * W, C], row by row."""
    return maps.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """[B, H * W, C] -> [B, C, H, W]."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, height, width)


def in_pieces(tokens: Tensor, hidden: int) -> list[slice]:
    """Images of a batch [B, N, C] whose hidden values [b, N, hidden] a processor can hold close by; all on a GPU.

    Images do not see each other in a decoder, so that pieces of a batch give what the whole gives. Large ones take
    longer: ViT-B/14 at 392² with 16 images 1.2 times as long as with 4.
    """
    count, each = tokens.shape[:2]
    if tokens.device.type != "cpu":
        return [slice(0, count)]
    pieces = min(count, -(-count * each * hidden // _PIECE_ELEMENTS))
    return [slice(count * i // pieces, count * (i + 1) // pieces) for i in range(pieces)]


def decoder_shares(taps: Sequence[int], depth: int) -> list[int] | None:
    """How many of `depth` decoder blocks each group takes, given its number of layers; None if they cannot be shared.

    As many as it has layers where the sums agree, as published; else an equal share.
    """
    if not taps or not all(taps):
        return None
    if sum(taps) == depth:
        return list(taps)
    return None if depth % len(taps) else [depth // len(taps)] * len(taps)


def group_outputs(blocks: Sequence[Tensor], taps: Sequence[int]) -> list[Tensor]:
    """Means of the decoder's outputs by group: the last blocks belong to the first, shallowest group."""
    shares = decoder_shares(taps, len(blocks))
    assert shares is not None, "teacher_layers refuses such groups"
    backwards, groups = list(reversed(blocks)), []
    for share in shares:
        # Their sum in half precision would be rounded at every block.
        groups.append(sum(backwards[1:share], start=at_least_float32(backwards[0])) / share)
        backwards = backwards[share:]
    return groups
