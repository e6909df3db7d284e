"""Channels of InReaCh: which patches of the training images belong together, and which of them can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Members(NamedTuple):
    """Patches in channels, each int64 [m]: the channel (seed image's rank x positions + position) and the patch.

    A patch is its image's number x positions + position. One patch may be in several channels: that of a seed both
    begins its own and may belong to one of an earlier seed.
    """

    channels: Tensor
    patches: Tensor


def squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """Squared Euclidean distances [A, C], [B, C] -> [A, B], not negative.

    Both are moved by the mean of `right` first, which leaves less to cancel.
    """
    centre = right.mean(dim=0)
    left, right = left - centre, right - centre
    products = torch.addmm(right.square().sum(dim=1), left, right.T, alpha=-2)
    return products.add_(left.square().sum(dim=1, keepdim=True)).clamp_min_(0)


def best_partners(patches: Tensor, seeds: Sequence[Tensor], rule: Literal["mutual", "any"]) -> tuple[Tensor, Tensor]:
    """For each patch of an image [P, C] the seed image that it joins and that image's patch, both int64 [P].

    A patch of the image and one of a seed are partners if each is the other's nearest. "mutual": the nearest partner
    wins. "any": the nearest patch of any seed wins, and if the two are no partners the patch joins nothing. -1 stands
    for no seed.
    """
    distances, places, partners = [], [], []
    rows = torch.arange(len(patches), device=patches.device)
    for seed in seeds:
        table = squared_distances(patches, seed)
        nearest = table.min(dim=1)
        distances.append(nearest.values)
        places.append(nearest.indices)
        partners.append(table.argmin(dim=0)[nearest.indices] == rows)
    mutual = torch.stack(partners)
    gaps = torch.stack(distances)
    if rule == "mutual":
        gaps = gaps.masked_fill(~mutual, torch.inf)
    best = gaps.argmin(dim=0)
    joined = mutual[best, rows]
    return torch.where(joined, best, -1), torch.stack(places)[best, rows]


def find_members(
    images: Iterable[tuple[int, Tensor]], seeds: int, rule: Literal["mutual", "any"], swapped: bool
) -> Members:
    """The channels that the patches of the images form.

    Args:
        images: number and patch vectors [P, C] of every image; the first `seeds` of them are the seeds.
        seeds: number of seed images. A seed's own patches are compared with the seeds before it.
        rule: see `best_partners`.
        swapped: whether the seed's position and the image's own are exchanged, a mistake of the published code.
    """
    known: list[Tensor] = []
    channels, members = [], []
    for number, patches in images:
        rows = torch.arange(len(patches), device=patches.device)
        if known:
            best, places = best_partners(patches, known, rule)
            joined = best >= 0
            begun, own = (rows, places) if swapped else (places, rows)
            channels.append((best * len(rows) + begun)[joined])
            members.append((number * len(rows) + own)[joined])
        if len(known) < seeds:
            channels.append(len(known) * len(rows) + rows)
            members.append(number * len(rows) + rows)
            known.append(patches)
    return Members(torch.cat(channels), torch.cat(members))


def long_enough(members: Members, shortest: int) -> Members:
    """The members of channels that have more than `shortest`."""
    lengths = torch.bincount(members.channels)
    kept = lengths[members.channels] > shortest
    return Members(members.channels[kept], members.patches[kept])


def near_the_mean(
    members: Members, distances: Tensor, norms: Tensor, limit: float, spread: Literal["std", "rms"]
) -> Members:
    """The members whose distance to their channel's mean is below `limit` times the channel's spread.

    Args:
        members: the channels.
        distances: of each member to its channel's mean, float [m].
        norms: length of that mean, float [m].
        limit: how many spreads are allowed.
        spread: the standard deviation of a channel's distances (of the population) or their root mean square.
    """
    values = distances.double()
    count = int(members.channels.max()) + 1 if len(values) else 0

    def mean_over_channel(numbers: Tensor) -> Tensor:
        sums = torch.zeros(count, dtype=torch.float64, device=numbers.device).index_add_(0, members.channels, numbers)
        return (sums / torch.bincount(members.channels).clamp_min(1))[members.channels]

    middle = mean_over_channel(values) if spread == "std" else torch.zeros_like(values)
    width = mean_over_channel((values - middle).square()).sqrt()
    # Patches that are all alike, as a plain background is, lie at a distance that is nothing but rounding.
    alike = values <= 1e-5 * norms
    kept = (values < limit * width) | alike
    return Members(members.channels[kept], members.patches[kept])
