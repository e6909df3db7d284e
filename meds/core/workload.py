"""How much a run computes, in counts: the one model behind the estimates of `meds plan` and docs/scaling.md.

A stage's seconds are such a count times the seconds of one piece, which `meds plan` measures on the machine at hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_MAD_OF_STANDARD_NORMAL = 0.6745
# The searched vectors in float32, and 35 % of that for answers: those that wait and those of the block at hand.
_BYTES_OF_A_SEARCHED_COMPONENT = 4 * 1.35
# A cosine and its place, and the copies that are made of them while an image is scored.
_BYTES_OF_AN_ANSWER = 16
# 7 passes in place of 33 selected as well where it was tried (docs/scaling.md).
_ENOUGH_PASSES = 10


def image_pairs(counts: Sequence[int], candidates: int | None) -> int:
    """Pairs of images that the memory stage multiplies, for classes of `counts` images and at most so many candidates.

    Candidates meet each other once, and themselves, and each of the images that are none.
    """
    total = 0
    for count in counts:
        pool = min(count, candidates or count)
        total += pool * (pool + 1) // 2 + (count - pool) * pool
    return total


def memory_bytes(images: int, patches: int, channels: int) -> int:
    """Bytes that the memory stage needs for the patch vectors of a class of so many images."""
    return round(images * patches * channels * _BYTES_OF_A_SEARCHED_COMPONENT)


def scoring_bytes(images: int, patches: int, copied: int, at_once: int) -> int:
    """Bytes beside the vectors that scoring other images takes, so many at once, against a memory of so many images.

    `copied` are the bytes of each vector's copy for the search.
    """
    return images * patches * (copied + at_once * _BYTES_OF_AN_ANSWER)


def selected_share(factor: float) -> float:
    """Share of images below median + factor x MAD, if their scores are normally distributed: 0.5 at 0, 0.75 at 1."""
    return 0.5 * (1 + math.erf(factor * _MAD_OF_STANDARD_NORMAL / math.sqrt(2)))


def scoring_passes(images: int, batch_size: int, iterations: int, critical_value: float, interval: int = 1) -> int:
    """How often select-finetune scores all training images, of which it may train on `images`.

    Epochs are as long as the selection of their time is expected to be (`selected_share`); every `interval`-th one
    begins with a pass, and the first needs none.
    """
    iteration, epoch, passes = 0, 0, 0
    while iteration < iterations:
        passes += epoch > 0 and (epoch - 1) % interval == 0
        share = selected_share(critical_value * iteration / iterations)
        iteration += max(1, int(share * images) // batch_size)
        epoch += 1
    return passes


def interval_of_enough_passes(images: int, batch_size: int, iterations: int, critical_value: float) -> int:
    """Fewest epochs from one scoring to the next that make 10 passes or fewer; 1 for up to 11 epochs."""
    every = scoring_passes(images, batch_size, iterations, critical_value)
    return max(1, math.ceil(every / _ENOUGH_PASSES))
