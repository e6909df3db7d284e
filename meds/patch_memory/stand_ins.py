"""Who takes the place of an image's own patches in the memory while that image itself is scored."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK_ELEMENTS = 2**24


def stand_ins(vectors: Tensor, positions: Tensor, per_image: int, weights: Tensor | None = None) -> Tensor:
    """For each of some patches the patch of another image that is nearest to it.

    A patch of the memory stands for all patches around it. Were an image's own ones only taken out, the memory would
    have holes where the other images' patches lie, and the image would look stranger than it would to a memory made
    without it; with the nearest patches of other images in their place, it looks nearly the same.

    Args:
        vectors: all patches of all images, float32 [n, D], image by image; at least two images.
        positions: the patches to replace, int64 [M].
        per_image: patches of an image.
        weights: [n]; a patch of weight 0 stands in only where no other is left.

    Returns:
        Positions int64 [M].
    """
    centred = vectors - vectors.mean(dim=0)
    norms = centred.square().sum(dim=1)
    if weights is not None:
        farther_than_any = 4 * norms.max() + 1
        norms = torch.where(weights > 0, norms, norms + farther_than_any)
    found = torch.empty_like(positions)
    step = max(1, _BLOCK_ELEMENTS // len(vectors))
    for start in range(0, len(positions), step):
        block = positions[start : start + step]
        partial = torch.addmm(norms, centred[block], centred.T, alpha=-2)
        by_image = partial.view(len(block), -1, per_image)
        by_image[torch.arange(len(block), device=block.device), block // per_image] = torch.inf
        found[start : start + step] = partial.argmin(dim=1)
    return found
