"""Codebooks that follow their tokens by moving averages, and the optimal-transport score to them.

Source: A. van den Oord et al., "Neural Discrete Representation Learning", NeurIPS 2017, appendix A.1 (moving
averages); R. Lu et al., NeurIPS 2023, sections 3.2 and 3.3 (switching by class, optimal-transport score).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAPLACE = 1e-5
# A code is dead if it serves fewer tokens an image than this share of what it would if all codes served alike.
# At a decay of 0.99 a code that serves none is so after 229 images of its class, about an epoch of MVTec.
DEAD_SHARE = 0.1


@dataclass(frozen=True)
class Quantised:
    """Tokens replaced by their nearest codes.

    Attributes:
        values: [B, N, D], the codes; their gradient is passed on to the tokens unchanged.
        chosen: int64 [B, N], the codes' numbers.
        commitment: [B], the mean squared distance of an image's tokens to their codes.
    """

    values: Tensor
    chosen: Tensor
    commitment: Tensor


class Codebooks(nn.Module):
    """Several codebooks of one size, kept in buffers and moved by forward passes in training mode.

    Everything is computed in the buffers' type, under autocast too.

    Attributes:
        codes: [books, size, width], the codes.
        counts: [books, size], moving average of how many tokens of an image a code serves.
        sums: [books, size, width], moving average of the sum of these tokens.
    """

    codes: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, books: int, size: int, width: int, decay: float, revive: bool) -> None:
        """Codes from a normal distribution, as published.

        The published counts start at 0 but the sums at the codes. The first image of a class thus throws the
        codes that serve no token about 1e5 times too far out; they are back after a thousand images, most serve
        nothing even then, and 1 or 2 codes do all the work. `revive` mends that: before a training image is
        quantised, dead codes are replaced by tokens of it, drawn at random and each at most once, with the count
        of an average code. At the start all codes are dead, so that the first images of a class fill its book.
        """
        super().__init__()
        self.decay, self.revive = decay, revive
        codes = torch.randn(books, size, width)
        self.register_buffer("codes", codes)
        self.register_buffer("counts", torch.zeros(books, size))
        self.register_buffer("sums", codes.clone())

    def forward(self, tokens: Tensor, books: Sequence[int]) -> Quantised:
        """Quantise tokens [B, N, width], image i with the codebook `books[i]`.

        In training mode each image moves its codebook before the next image with the same one is looked up, so
        that the order of the batch counts; an image itself still gets the codes from before.
        """
        values = tokens.to(self.codes.dtype)
        with torch.autocast(values.device.type, enabled=False):
            nearest, chosen = self._look_up(values.detach(), books)
            commitment = (nearest - values).square().mean(dim=(1, 2))
            return Quantised(values + (nearest - values).detach(), chosen, commitment)

    @torch.no_grad()
    def transport_score(self, tokens: Tensor, books: Sequence[int]) -> Tensor:
        """Conditional transport cost of each token [B, N, width] to its image's codebook, [B, N] from 0 to 2.

        The mean of 1 - cos over the codes, weighted by the softmax of the inner products divided by the number
        of codes.
        """
        values = tokens.to(self.codes.dtype)
        with torch.autocast(values.device.type, enabled=False):
            codes = self.codes[torch.tensor(books, device=values.device)].transpose(1, 2)
            weights = torch.softmax(torch.bmm(values, codes) / codes.shape[2], dim=2)
            cosine = torch.bmm(F.normalize(values, dim=2), F.normalize(codes, dim=1))
            return (weights * (1 - cosine)).sum(dim=2)

    @torch.no_grad()
    def _look_up(self, tokens: Tensor, books: Sequence[int]) -> tuple[Tensor, Tensor]:
        if not self.training:
            return self._nearest(tokens, torch.tensor(books, device=tokens.device))
        nearest = torch.empty_like(tokens)
        chosen = torch.empty(tokens.shape[:2], dtype=torch.int64, device=tokens.device)
        # Images with different codebooks do not see each other, so that one of each goes at once.
        for turn in turns(books):
            rows = torch.tensor(turn, device=tokens.device)
            index = torch.tensor([books[row] for row in turn], device=tokens.device)
            part = tokens[rows]
            if self.revive:
                self._replace_dead(part, index)
            nearest[rows], chosen[rows] = self._nearest(part, index)
            self._move(part, chosen[rows], index)
        return nearest, chosen

    def _nearest(self, tokens: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.codes[index]
        # Squared distances without the tokens' own squares, which are the same for every code.
        gaps = torch.baddbmm(codes.square().sum(dim=2)[:, None], tokens, codes.transpose(1, 2), alpha=-2)
        chosen = gaps.argmin(dim=2)
        return _pick(codes, chosen), chosen

    def _move(self, tokens: Tensor, chosen: Tensor, index: Tensor) -> None:
        size = self.codes.shape[1]
        # A product with ones and zeros adds in a fixed order on every device, which index_add does not.
        hits = F.one_hot(chosen, size).to(tokens.dtype)
        counts = self.counts[index].mul_(self.decay).add_(hits.sum(dim=1), alpha=1 - self.decay)
        sums = self.sums[index].mul_(self.decay).add_(torch.bmm(hits.transpose(1, 2), tokens), alpha=1 - self.decay)
        total = counts.sum(dim=1, keepdim=True)
        smoothed = (counts + LAPLACE) / (total + size * LAPLACE) * total
        self._write(index, sums / smoothed[..., None], counts, sums)

    def _replace_dead(self, tokens: Tensor, index: Tensor) -> None:
        number, size = tokens.shape[1], self.codes.shape[1]
        average = number / size
        counts = self.counts[index]
        dead = counts < DEAD_SHARE * average
        place = dead.cumsum(dim=1) - 1
        replaced = dead & (place < number)
        order = torch.rand(tokens.shape[:2], device=tokens.device).argsort(dim=1)
        drawn = _pick(tokens, order.gather(1, place.clamp(0, number - 1)))
        codes = torch.where(replaced[..., None], drawn, self.codes[index])
        sums = torch.where(replaced[..., None], drawn * average, self.sums[index])
        self._write(index, codes, counts.masked_fill(replaced, average), sums)

    def _write(self, index: Tensor, codes: Tensor, counts: Tensor, sums: Tensor) -> None:
        self.codes.index_copy_(0, index, codes)
        self.counts.index_copy_(0, index, counts)
        self.sums.index_copy_(0, index, sums)


def turns(books: Sequence[int]) -> list[list[int]]:
    """Positions in groups: the first image of every codebook, then the second of every one, and so on."""
    result: list[list[int]] = []
    seen: dict[int, int] = {}
    for position, book in enumerate(books):
        turn = seen.get(book, 0)
        seen[book] = turn + 1
        if turn == len(result):
            result.append([])
        result[turn].append(position)
    return result


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """Rows of [B, K, D] by their numbers [B, N] -> [B, N, D]."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))
