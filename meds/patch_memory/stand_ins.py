"""Who takes the place of an image's own patches in the memory while that image itself is scored."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK_ELEMENTS = 2**24


def stand_ins(vectors: Tensor, positions: Tensor, contents: Tensor, weights: Tensor | None = None) -> Tensor:
    """For each patch of the memory the patch of another image that stands in for it.

    A patch of the memory stands for all patches around it. Were an image's own ones only taken out, the memory would
    have holes where the other images' patches lie, and the image would look stranger than it would to a memory made
    without it. So the nearest patch of another image stands in, where a coreset without the image would have needed
    one: if the rest of the memory covers it already, as near as the coreset covers all patches, then what covers it
    does. Copies of an image count as the image itself.

    Args:
        vectors: all patches of all images, float32 [n, D], image by image; images of at least two contents.
        positions: the memory's patches, int64 [M], in the order in which they were chosen.
        contents: what each image shows, int64 [images]: equal for copies of one image.
        weights: [n]; a patch of weight 0 stands in only where no other is left.

    Returns:
        Positions int64 [M].
    """
    centred = vectors - vectors.mean(dim=0)
    shown = contents.to(vectors.device).repeat_interleave(len(vectors) // len(contents))
    picks, own = centred[positions], shown[positions]
    nearest, _ = _nearest_of_others(picks, own, centred, shown, None if weights is None else weights > 0)
    covering, distances = _nearest_of_others(centred[nearest], own, picks, own)
    # The last pick lay as far from the others as any patch did: the radius of the coreset.
    last = (picks[:-1] - picks[-1]).square().sum(dim=1)
    radius = last.min() if len(last) else last.new_zeros(())
    uncovered = distances.isinf()
    if weights is not None:
        distances, radius = distances * weights[nearest].square(), radius * weights[positions[-1]].square()
    return torch.where(uncovered | (distances > radius), nearest, positions[covering])


def _nearest_of_others(
    queries: Tensor, asking: Tensor, keys: Tensor, shown: Tensor, welcome: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """For each query [Q, D] the row of the nearest key [K, D] that shows another content, and the squared distance.

    `asking` [Q] and `shown` [K] are contents. A key that is not `welcome` is taken where no other is left. The distance
    is infinite where there is none at all.
    """
    norms = keys.square().sum(dim=1)
    if welcome is not None:
        norms = torch.where(welcome, norms, norms + 4 * norms.max() + 1)
    rows = torch.empty(len(queries), dtype=torch.int64, device=queries.device)
    squared = queries.new_empty(len(queries))
    step = max(1, _BLOCK_ELEMENTS // len(keys))
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        partial = torch.addmm(norms, queries[block], keys.T, alpha=-2)
        partial.masked_fill_(asking[block, None] == shown, torch.inf)
        found = partial.min(dim=1)
        rows[block] = found.indices
        squared[block] = found.values + queries[block].square().sum(dim=1)
    return rows, squared
