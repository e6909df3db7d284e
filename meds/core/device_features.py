"""Stored features on the device that computes with them, where an accelerator keeps what it has been given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from meds.core.feature_cache import FeatureCache
from meds.core.runtime import Runtime


class DeviceFeatures:
    """Reads a feature cache for a stage.

    Every epoch asks for the same images. An accelerator holds on to what it has been sent until the features take
    `limit_bytes` (by default what the runtime can spare), and is sent the rest each time; on a processor nothing is
    held, since the operating system keeps the files.
    """

    def __init__(self, cache: FeatureCache, runtime: Runtime, limit_bytes: int | None = None) -> None:
        self._cache, self._runtime, self._limit = cache, runtime, limit_bytes
        self._held: dict[tuple[str, str], Tensor] = {}
        self._bytes = 0

    def fetch(self, digests: Sequence[str], layer: str) -> Tensor | list[Tensor]:
        """The maps of the images on the device, [n, C, H, W] or one [C, H, W] each, in the precision of the cache.

        Raises:
            ArtifactError: a shard of the cache is damaged.
        """
        if self._limit is None:
            self._limit = self._runtime.spare_bytes()
        missing = list(dict.fromkeys(digest for digest in digests if (layer, digest) not in self._held))
        if not missing:
            return [self._held[layer, digest] for digest in digests]
        maps = self._runtime.put(self._cache.read(missing, layer))
        # All or nothing: a part would keep the whole batch in memory.
        fits = self._bytes + maps.nbytes <= self._limit
        if not fits and len(missing) == len(digests):
            return maps
        sent = {(layer, digest): value for digest, value in zip(missing, maps, strict=True)}
        if fits:
            self._held.update(sent)
            self._bytes += maps.nbytes
        return [sent[key] if key in sent else self._held[key] for key in ((layer, digest) for digest in digests)]


def as_batch(maps: Tensor | list[Tensor]) -> Tensor:
    """What `DeviceFeatures.fetch` gives as one batch, [n, C, H, W] float32."""
    if isinstance(maps, Tensor):
        return maps.float()
    if len({value.dtype for value in maps}) > 1:
        maps = [value.float() for value in maps]
    return torch.stack(maps).float()
