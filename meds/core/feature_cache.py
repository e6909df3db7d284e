"""Encoder features on disk: computed once for each image, half precision, memory-mapped, checksummed."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from meds.core import files
from meds.core.backbone import Layer
from meds.core.errors import ArtifactError, ResourceError
from meds.core.in_use import used_by_others
from meds.core.store import tensor_bytes

SUFFIX = ".safetensors"
SHARD_IMAGES = 32
# A mapped file takes address space, which a process may have little of, and opening it again takes a tenth of a
# millisecond.
OPEN_SHARDS = 64
_NUMPY_TYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}


def as_cached(maps: Tensor) -> Tensor:
    """The maps in the precision that the cache keeps: float16, or float32 where a value does not fit into it."""
    half = maps.to(torch.float16)
    return half if bool(torch.isfinite(half).all()) else maps.float()


@dataclass
class _Shard:
    path: Path
    verified: bool = False


class FeatureCache:
    """Feature maps by backbone fingerprint, layer and image digest.

    A shard holds the maps of up to 32 images of one layer, float16 [n, C, H, W] (float32 where a value
    does not fit into half precision). Its name carries its checksum, which is verified the first time
    that the shard is read; a damaged shard is removed and reported, and its images count as missing.
    The shards that were read last stay open, up to 64 of them.
    """

    def __init__(self, home: Path, backbone_fingerprint: str, limit_bytes: int) -> None:
        self.root = home / "features"
        self.folder = self.root / backbone_fingerprint
        self.limit_bytes = limit_bytes
        self.damaged: list[str] = []
        self._places: dict[str, dict[str, tuple[_Shard, int]]] = {}
        self._opened: OrderedDict[Path, npt.NDArray[Any]] = OrderedDict()
        # The next batch may be read in a thread of its own.
        self._reading = Lock()

    def missing(self, digests: Iterable[str], layers: Sequence[str]) -> list[str]:
        """Digests that lack a layer, in the order given, each once."""
        places = [self._index(layer) for layer in layers]
        unique = dict.fromkeys(digests)
        return [digest for digest in unique if any(digest not in place for place in places)]

    def write(self, digests: Sequence[str], layer: str, maps: Tensor) -> None:
        """Store the maps [n, C, H, W] of n images; images that are there already are left alone."""
        index = self._index(layer)
        new = [i for i, digest in enumerate(digests) if digest not in index]
        if not new:
            return
        chosen = as_cached(maps[new])
        names = [digests[i] for i in new]
        data = tensor_bytes({"maps": chosen}, {"images": json.dumps(names)})
        path = files.write_named_by_checksum(self.folder / layer, names[0][:16], SUFFIX, data)
        shard = _Shard(path)
        index.update({name: (shard, i) for i, name in enumerate(names)})

    def read(self, digests: Sequence[str], layer: str) -> Tensor:
        """Maps [n, C, H, W] of the images, float16 or float32; ArtifactError if a shard is damaged or gone."""
        with self._reading:
            index = self._index(layer)
            if any(digest not in index for digest in digests):
                raise self._gone(layer)
            try:
                rows = [self._open(shard)[row] for shard, row in map(index.__getitem__, digests)]
            except FileNotFoundError:
                raise self._gone(layer) from None
            return torch.from_numpy(np.stack(rows))

    def _gone(self, layer: str) -> ArtifactError:
        return ArtifactError(
            f"{self.folder / layer}: features of the run's images are gone; run its spec with --force."
        )

    def verify(self, digests: Iterable[str], layers: Sequence[str]) -> None:
        """Check the shards of these images; damaged and missing ones are noted in `damaged`, removed and forgotten."""
        wanted = set(digests)
        for layer in layers:
            index = self._index(layer)
            shards = {id(index[d][0]): index[d][0] for d in wanted if d in index}
            for shard in shards.values():
                problem = self._problem(shard)
                if problem is not None:
                    self.damaged.append(problem)
                    shard.path.unlink(missing_ok=True)
                    for digest in [d for d, (other, _) in index.items() if other is shard]:
                        del index[digest]

    def _problem(self, shard: _Shard) -> str | None:
        try:
            self._open(shard)
        except ArtifactError as error:
            return str(error)
        except FileNotFoundError:
            return f"{shard.path} is missing."
        return None

    def remove_leftovers(self, layers: Sequence[str]) -> None:
        """Remove what a killed run left half written; nobody else may be writing."""
        for layer in layers:
            files.remove_leftovers(self.folder / layer)

    def make_room(self, new_bytes: int, wanted_bytes: int, digests: Iterable[str], layers: Sequence[str]) -> None:
        """Free space for a run's features: those of other backbones go first, least recently used first,
        then those of this backbone that the run, its `digests` and `layers`, does not read.

        Raises ResourceError if the run's own features exceed the limit, or other runs use too much of it.
        """
        if wanted_bytes > self.limit_bytes:
            raise ResourceError(
                f"The features of this run need {wanted_bytes / 2**30:.1f} GiB and the cache may hold "
                f"{self.limit_bytes / 2**30:.1f} GiB; set MEDS_CACHE_GIB to a larger size, or choose a smaller "
                "`backbone.image_size`."
            )
        excess = folder_bytes(self.root) + new_bytes - self.limit_bytes
        others = [f for f in self.root.glob("*") if f.is_dir() and f != self.folder]
        kept = {folder for folder in (self.folder, *others) if excess > 0 and used_by_others(folder)}
        for other in sorted(set(others) - kept, key=lambda f: f.stat().st_mtime):
            if excess <= 0:
                break
            excess -= folder_bytes(other)
            shutil.rmtree(other, ignore_errors=True)
        if self.folder not in kept:
            excess -= self._remove_unread(excess, set(digests), set(layers))
        if excess > 0 and kept:
            raise ResourceError(
                f"The cache may hold {self.limit_bytes / 2**30:.1f} GiB of features, and other runs are using what it "
                "holds; wait until they have finished, or set MEDS_CACHE_GIB to a larger size."
            )
        self.touch()

    def _remove_unread(self, excess: int, digests: set[str], layers: set[str]) -> int:
        """Remove shards of this backbone that hold nothing of a run, oldest first, until `excess` bytes are free.

        Returns the bytes that are free now.
        """
        free = 0
        if excess <= 0:
            return free
        for path in sorted(self.folder.glob(f"*/*{SUFFIX}"), key=lambda path: path.stat().st_mtime):
            if free >= excess:
                break
            taken = path.stat().st_size
            if path.parent.name in layers and not digests.isdisjoint(_images_in(path, self.damaged)):
                continue
            free += taken
            path.unlink(missing_ok=True)
            self._places.pop(path.parent.name, None)
        return free

    def touch(self) -> None:
        """Mark this backbone's features as used now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        os.utime(self.folder, (time.time(), time.time()))

    def _open(self, shard: _Shard) -> npt.NDArray[Any]:
        if not shard.verified:
            files.verify_named_by_checksum(shard.path, SUFFIX)
            shard.verified = True
        opened = self._opened.pop(shard.path, None)
        if opened is None:
            opened = _mapped(shard.path)
        self._opened[shard.path] = opened
        if len(self._opened) > OPEN_SHARDS:
            self._opened.popitem(last=False)
        return opened

    def _index(self, layer: str) -> dict[str, tuple[_Shard, int]]:
        if layer not in self._places:
            self._places[layer] = {}
            for path in sorted((self.folder / layer).glob(f"*{SUFFIX}")):
                shard = _Shard(path)
                for row, name in enumerate(_images_in(path, self.damaged)):
                    self._places[layer].setdefault(name, (shard, row))
        return self._places[layer]


def _mapped(path: Path) -> npt.NDArray[Any]:
    """The maps of a shard that is known to be sound, [n, C, H, W], mapped to be read only.

    safetensors maps a file for torch as private memory, all of which counts as the process's own, and copies it for
    NumPy. The format: the length of the header in 8 bytes, the header in JSON, the data.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        maps = json.loads(file.read(length))["maps"]
    return np.memmap(path, _NUMPY_TYPES[maps["dtype"]], "r", 8 + length + maps["data_offsets"][0], tuple(maps["shape"]))


def _images_in(path: Path, damaged: list[str]) -> list[str]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as shard:
            return list(json.loads(shard.metadata()["images"]))
    except Exception as error:  # safetensors raises its own type and several built-in ones
        damaged.append(f"{path} is damaged ({error}).")
        path.unlink(missing_ok=True)
        return []


def bytes_per_image(layers: Iterable[Layer]) -> int:
    """Bytes that one image's maps take in the cache."""
    return sum(2 * layer.channels * layer.height * layer.width for layer in layers)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
