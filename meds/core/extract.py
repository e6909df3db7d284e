"""Fills the feature cache: decodes images on all cores while the encoder works on the batch before."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from meds.core.backbone import Backbone, Preprocessing, normalise
from meds.core.data import Sample
from meds.core.dataset import Dataset
from meds.core.errors import PluginError
from meds.core.feature_cache import SHARD_IMAGES, FeatureCache, bytes_per_image
from meds.core.images import resize_and_crop
from meds.core.reporter import Reporter
from meds.core.runtime import Runtime


def extract_features(
    dataset: Dataset[Any],
    samples: Sequence[Sample],
    backbone: Backbone,
    layers: Sequence[str],
    cache: FeatureCache,
    runtime: Runtime,
    reporter: Reporter,
) -> int:
    """Compute and store what the cache lacks; returns the number of images encoded.

    Images are encoded in fixed groups and a group is stored before the next one, so that a killed run
    goes on with the same groups and ends in the same bits. Raises ResourceError if the cache's limit is
    too small and DataError for an image that cannot be read.
    """
    by_digest = {sample.digest: sample for sample in samples}
    cache.remove_leftovers(layers)
    cache.verify(by_digest, layers)
    for text in cache.damaged:
        reporter.say(f"{text} Its features are computed again.")
    cache.damaged.clear()
    pending = cache.missing(by_digest, layers)
    size = bytes_per_image([backbone.layer(name) for name in layers])
    cache.make_room(len(pending) * size, len(by_digest) * size, by_digest, layers)
    if not pending:
        return 0
    backbone.to(runtime.device)
    groups = [pending[i : i + SHARD_IMAGES] for i in range(0, len(pending), SHARD_IMAGES)]
    with ThreadPoolExecutor(runtime.threads) as pool, reporter.bar("features", len(pending)) as bar:

        def start(group: Sequence[str]) -> list[Future[Tensor]]:
            return [pool.submit(load_image, dataset, by_digest[digest], backbone) for digest in group]

        waiting = start(groups[0])
        for number, group in enumerate(groups):
            images = torch.stack([future.result() for future in waiting])
            waiting = start(groups[number + 1]) if number + 1 < len(groups) else []
            for name, maps in zip(layers, encode(backbone, images, layers, runtime), strict=True):
                cache.write(group, name, maps)
            bar.advance(len(group))
    return len(pending)


def load_image(dataset: Dataset[Any], sample: Sample, backbone: Backbone) -> Tensor:
    """One image as the encoder takes it, float32 [3, S, S]; DataError if it cannot be read."""
    return encoder_input(dataset.image(sample.record), backbone.preprocessing)


def encoder_input(image: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> Tensor:
    """An RGB image uint8 [H, W, 3] of any size as the encoder takes it, float32 [3, S, S]."""
    return torch.from_numpy(normalise(resize_and_crop(image, preprocessing), preprocessing))


def encode(backbone: Backbone, images: Tensor, layers: Sequence[str], runtime: Runtime) -> list[Tensor]:
    """Feature maps of a batch, float32 on the CPU, one [B, C, H, W] for each layer.

    Raises:
        PluginError: the encoder gives other maps than its layers say.
    """
    with torch.inference_mode(), runtime.autocast():
        maps = backbone.features(runtime.put(images), layers)
    found = [list(values.shape) for values in maps]
    told = [backbone.layer(name) for name in layers]
    wanted = [[len(images), layer.channels, layer.height, layer.width] for layer in told]
    if found != wanted:
        raise PluginError(
            f"The backbone '{backbone.name}' gives maps of shapes {found} for the layers {', '.join(layers)}, and says "
            f"{wanted} with `layers`."
        )
    return [m.float().cpu() for m in maps]
