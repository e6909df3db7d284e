"""The pictures of the pages: training images at several sizes, their heatmaps, and crops around a patch."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from threading import BoundedSemaphore

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from meds.core import heatmaps, scoring
from meds.core.backbone import Preprocessing
from meds.core.errors import DataError, MedsError
from meds.core.finished_run import FinishedRun
from meds.review.nearest import Patch
from meds.review.ranking import Item

THUMBNAIL = 256
VIEW = 1600
HEATMAP = 640
CROP = 288
# A patch alone is a few pixels; people recognise it by what is around it.
CROP_SHARE = 0.25
AT_ONCE = 4

Pixels = npt.NDArray[np.uint8]


class ReviewPictures:
    """Encodes what browsers show; the latest results are kept in memory.

    Every method raises DataError if the image cannot be read, or is no longer the one that the run was trained on.
    """

    def __init__(self, run: FinishedRun) -> None:
        self._run = run
        self._maps = run.evaluation.tensors("maps")["train"]
        self._known = _preprocessing_of(run)
        # Decoded photographs are large; a page asks for dozens at once.
        self._reading = BoundedSemaphore(AT_ONCE)
        self.thumbnail: Callable[[Item], bytes] = lru_cache(4096)(self._thumbnail)
        self.view: Callable[[Item], bytes] = lru_cache(32)(self._view)
        self.heatmap: Callable[[Item], bytes] = lru_cache(64)(self._heatmap)
        self._pixels: Callable[[Item], Pixels] = lru_cache(3)(self._read)

    def size(self, item: Item) -> tuple[int, int]:
        """Width and height of the image in pixels."""
        height, width = self._pixels(item).shape[:2]
        return width, height

    def full(self, item: Item) -> bytes:
        """The whole image, every pixel as it is, as PNG."""
        return heatmaps.png(self._pixels(item))

    def crop(self, item: Item, patch: Patch) -> bytes:
        """A square around a patch of the image, with the patch in a frame, as JPEG."""
        pixels = self._pixels(item)
        left, top, right, bottom = self._patch_box(pixels, patch)
        height, width = pixels.shape[:2]
        side = max(round(CROP_SHARE * min(height, width)), round(3 * max(right - left, bottom - top)), 8)
        side = min(side, height, width)
        x = int(np.clip((left + right - side) / 2, 0, width - side))
        y = int(np.clip((top + bottom - side) / 2, 0, height - side))
        picture = Image.fromarray(pixels[y : y + side, x : x + side]).resize((CROP, CROP), Image.Resampling.BICUBIC)
        scale = CROP / side
        frame = [(left - x) * scale, (top - y) * scale, (right - x) * scale, (bottom - y) * scale]
        drawing = ImageDraw.Draw(picture)
        for grown, colour, thickness in ((5, (0, 0, 0), 5), (4, (255, 255, 255), 3)):
            box = [frame[0] - grown, frame[1] - grown, frame[2] + grown, frame[3] + grown]
            drawing.rectangle(box, outline=colour, width=thickness)
        return _jpeg(picture)

    def _read(self, item: Item) -> Pixels:
        with self._reading:
            return self._run.image(item.sample)

    def _thumbnail(self, item: Item) -> bytes:
        return _jpeg(_within(self._read(item), THUMBNAIL), quality=85)

    def _view(self, item: Item) -> bytes:
        return _jpeg(_within(self._pixels(item), VIEW))

    def _heatmap(self, item: Item) -> bytes:
        """Colours RGBA as PNG; what looks normal is transparent, so that the image stays visible."""
        import torch

        width, height = _fitted(*self.size(item), HEATMAP)
        how = self._run.evaluation_settings
        with torch.inference_mode():
            smoothed = scoring.picture_maps(self._maps[item.position : item.position + 1], how)[0].numpy()
        values = heatmaps.on_image(smoothed, height, width, self._preprocessing)
        low, high = self._run.calibration(item.class_name)["heatmap"]
        colours = heatmaps.heatmap(values, (low, high))
        # Nothing up to half the threshold, half at the threshold, which is the middle of the scale.
        share = np.nan_to_num((values - low) / max(high - low, 1e-12))
        colours[..., 3] = np.rint(colours[..., 3] * np.clip(2 * share - 0.5, 0, 1)).astype(np.uint8)
        return heatmaps.png(colours)

    @property
    def _preprocessing(self) -> Preprocessing:
        if isinstance(self._known, MedsError):
            raise DataError(f"What the encoder sees of an image is not known: {self._known}")
        return self._known

    def _patch_box(self, pixels: Pixels, patch: Patch) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of a patch on the image's pixels; the encoder sees only the central part."""
        height, width = pixels.shape[:2]
        rows, columns = self._maps.shape[1:3]
        share = self._preprocessing.size / self._preprocessing.resize
        left, top = width * (1 - share) / 2, height * (1 - share) / 2
        patch_width, patch_height = width * share / columns, height * share / rows
        x, y = left + patch[1] * patch_width, top + patch[0] * patch_height
        return x, y, x + patch_width, y + patch_height


def _preprocessing_of(run: FinishedRun) -> Preprocessing | MedsError:
    """How images became the encoder's input, or why the encoder is not there."""
    try:
        return run.pipeline.backbone.preprocessing
    except MedsError as error:
        return error


def _fitted(width: int, height: int, largest: int) -> tuple[int, int]:
    """A size of the same proportions with no side longer than `largest`."""
    scale = min(1.0, largest / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _within(pixels: Pixels, largest: int) -> Image.Image:
    picture = Image.fromarray(pixels)
    size = _fitted(picture.width, picture.height, largest)
    return picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _jpeg(picture: Image.Image, quality: int = 95) -> bytes:
    target = io.BytesIO()
    # No colour subsampling: thin coloured defects would fade.
    picture.save(target, format="JPEG", quality=quality, subsampling=0)
    return target.getvalue()
