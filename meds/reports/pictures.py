"""Thumbnails of a run's images with their anomaly maps, small enough to stand in a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from meds.core import heatmaps, scoring
from meds.core.backbone import Preprocessing
from meds.core.data import Sample
from meds.core.errors import DataError
from meds.core.finished_run import FinishedRun

SIDE = 168
QUALITY = 80
OPACITY = 0.6
Split = Literal["train", "test"]


@dataclass(frozen=True)
class Pair:
    """Data URLs of an image and of its map over it; `overlay` is None where the run stored no colour scale.

    `outlined` says whether the image shows where its marked defect is.
    """

    image: str
    overlay: str | None
    outlined: bool


class ReportPictures:
    """Pictures of a run's training (`train`) and test images by their position.

    Raises:
        UserError: the run's evaluation is gone from the store.
    """

    def __init__(self, run: FinishedRun) -> None:
        self._run = run
        self._calibration = run.metrics.get("calibration")
        self._maps = run.evaluation.tensors("maps")
        self._lost: list[str] = []

    def lost(self) -> str | None:
        """A sentence about images that could not be shown; None if all could."""
        if not self._lost:
            return None
        count = len(self._lost)
        images = "image of it" if count == 1 else "images of it"
        return f"{self._run.path}: {count} {images} cannot be shown: {self._lost[0]}"

    def pair(self, split: Split, position: int, outline: bool = False) -> Pair | None:
        """An image and its map; None if it is not that image any more. `outline` marks the defect, if it is known."""
        samples = self._run.data.train if split == "train" else self._run.data.test
        sample: Sample = samples[position]
        dataset = self._run.pipeline.dataset
        try:
            image = self._run.image(sample)
            mask = dataset.mask(sample.record) if outline and sample.record.mask else None
        except DataError as error:
            self._lost.append(str(error))
            return None
        small = np.array(_shrunk(image))
        shown = small if mask is None else _outlined(small, mask)
        return Pair(_url(shown), self._overlay(small, split, position), mask is not None)

    def _overlay(self, small: npt.NDArray[np.uint8], split: Split, position: int) -> str | None:
        if self._calibration is None:
            return None
        samples = self._run.data.train if split == "train" else self._run.data.test
        scale = self._calibration[samples[position].record.class_name]["heatmap"]
        values = heatmaps.on_image(self._map(split, position), small.shape[0], small.shape[1], self._preprocessing)
        return _url(heatmaps.overlay(small, values, scale, OPACITY))

    def _map(self, split: Split, position: int) -> npt.NDArray[np.float32]:
        how = self._run.evaluation_settings
        return np.asarray(scoring.picture_maps(self._maps[split][position : position + 1], how)[0].numpy())

    @cached_property
    def _preprocessing(self) -> Preprocessing:
        return self._run.pipeline.backbone.preprocessing


def _shrunk(image: npt.NDArray[np.uint8]) -> Image.Image:
    picture = Image.fromarray(image)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return picture


def _outlined(small: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """A white line around the defect and a black one around that: one of them stands out on any image."""
    # Of a defect of a few pixels, something must be left at this size.
    shares = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(small.shape[1::-1], Image.Resampling.BOX))
    inner = ndimage.binary_dilation(shares > 0, iterations=2)
    lines = small.copy()
    lines[ndimage.binary_dilation(inner, iterations=2) & ~inner] = 0
    lines[ndimage.binary_dilation(inner) & ~inner] = 255
    return lines


def _url(pixels: npt.NDArray[np.uint8]) -> str:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, format="JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(target.getvalue()).decode()
