"""Thumbnails of a run's images with their anomaly maps, small enough to stand in a page."""

from __future__ import annotations

import base64
import io
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from meds.core import heatmaps, scoring
from meds.core.backbone import Preprocessing
from meds.core.data import Sample
from meds.core.errors import DataError
from meds.core.finished_run import FinishedRun

SIDE = 168
QUALITY = 80


class Pictures:
    """Pictures of a run's training (`train`) and test images by their position."""

    def __init__(self, run: FinishedRun) -> None:
        self._run = run
        self._calibration = run.metrics["calibration"]

    def pair(self, split: str, position: int) -> tuple[str, str] | None:
        """Data URLs of an image and of its map over it; None if the image can no longer be read."""
        samples = self._run.data.train if split == "train" else self._run.data.test
        sample: Sample = samples[position]
        try:
            image = self._run.pipeline.dataset.read_image(sample.record)
        except DataError:
            return None
        small = np.array(_shrunk(image))
        values = heatmaps.on_image(self._map(split, position), small.shape[0], small.shape[1], self._preprocessing)
        scale = self._calibration[sample.record.class_name]["heatmap"]
        return _url(small), _url(heatmaps.overlay(small, values, scale, 0.6))

    def _map(self, split: str, position: int) -> npt.NDArray[np.float32]:
        how = self._run.evaluation_settings
        patches = self._maps[split][position : position + 1].float()
        smoothed = scoring.smooth(scoring.pixel_map([patches], how), how)
        return np.asarray(smoothed[0].numpy(), dtype=np.float32)

    @cached_property
    def _maps(self) -> dict[str, torch.Tensor]:
        return self._run.evaluation.tensors("maps")

    @cached_property
    def _preprocessing(self) -> Preprocessing:
        return self._run.pipeline.backbone.preprocessing


def _shrunk(image: npt.NDArray[np.uint8]) -> Image.Image:
    picture = Image.fromarray(image)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return picture


def _url(pixels: npt.NDArray[np.uint8]) -> str:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, format="JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(target.getvalue()).decode()
