"""Finds, for every query patch, the most similar patch in each candidate image."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK_ELEMENTS = 2**20


def nearest_by_image(query: Tensor, candidates: Tensor) -> Tensor:
    """Largest cosine of each query patch with each image: [Q, C], [n, P, C] -> [Q, n] float32."""
    count, patches, channels = candidates.shape
    images = max(1, _BLOCK_ELEMENTS // (len(query) * patches))
    flat = candidates.reshape(count * patches, channels)
    result = torch.empty(len(query), count, device=query.device)
    for start in range(0, count, images):
        block = flat[start * patches : (start + images) * patches]
        products = (query @ block.T).view(len(query), -1, patches)
        torch.amax(products, dim=2, out=result[:, start : start + images])
    return result


def nearest_patches(query: Tensor, pool: Tensor, count: int) -> Tensor:
    """The `count` largest cosines of each query patch with a pool of patches, sorted: [Q, count] float32."""
    import faiss

    index = faiss.IndexFlatIP(pool.shape[1])
    index.add(pool.cpu().numpy())
    cosines, _ = index.search(query.cpu().numpy(), count)
    return torch.from_numpy(cosines).to(query.device)
