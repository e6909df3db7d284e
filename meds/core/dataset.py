"""The dataset contract: records that say where images, labels and masks are, and how to read one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from meds.core import images
from meds.core.errors import PluginError
from meds.core.files import sha256
from meds.core.registry import Options

Split = Literal["train", "test"]
NORMAL = 0
ANOMALOUS = 1


@dataclass(frozen=True)
class Record:
    """One image.

    `label` is 0 (normal), 1 (anomalous) or None (unknown). `defect` is the defect type ("good" for a
    normal image, None if unknown). `mask` is the path of the defect mask, or of a folder of masks that
    belong to one image; None if there is none; a normal image needs no mask. `path` is a file path, or a
    stable name for an image made in memory.
    """

    path: str
    class_name: str
    split: Split
    label: int | None = None
    defect: str | None = None
    mask: str | None = None


class DatasetOptions(Options):
    """Options that every dataset has."""

    unreadable: Literal["error", "skip"] = Field(
        default="error",
        description="What to do with an image that cannot be read: stop, or leave it out and list it.",
    )


class ImageFileOptions(DatasetOptions):
    """Options of a dataset of image files that somebody's own camera may have written."""

    bits: int = Field(
        default=images.FULL_BITS,
        ge=8,
        le=images.FULL_BITS,
        description="How many bits of a grey image of 16 bits are used: 12 for a camera of 12 bits whose values reach "
        "4095. Other images are read as they are.",
    )


OptionsT = TypeVar("OptionsT", bound=DatasetOptions)


class Dataset(ABC, Generic[OptionsT]):
    """Where images come from. Subclasses implement `records`; image files are read by the base class."""

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    @abstractmethod
    def records(self) -> Sequence[Record]:
        """All images in a fixed order (sorted, not the file system's); DataError if there are none."""

    def read_image(self, record: Record) -> npt.NDArray[np.uint8]:
        """The image as RGB [H, W, 3] uint8; DataError with the path if it cannot be read."""
        return self.read_file(Path(record.path))

    def read_file(self, path: Path) -> npt.NDArray[np.uint8]:
        """A file as RGB [H, W, 3] uint8, read as the dataset's own images are: `meds predict` reads new images so.

        Raises:
            DataError: it cannot be read; the sentence names the path.
        """
        return images.read_rgb(path, self.bits)

    def image(self, record: Record) -> npt.NDArray[np.uint8]:
        """What `read_image` gives, once it is sure that it is an image; PluginError if it is none."""
        image = self.read_image(record)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise PluginError(_wrong("image", record, "RGB uint8 [H, W, 3]", image))
        return image

    def mask(self, record: Record) -> npt.NDArray[np.bool_] | None:
        """What `read_mask` gives, once it is sure that it is a mask; PluginError if it is none."""
        mask = self.read_mask(record)
        if mask is not None and (mask.dtype != np.bool_ or mask.ndim != 2):
            raise PluginError(_wrong("mask", record, "bool [H, W]", mask))
        return mask

    @property
    def bits(self) -> int:
        """How many bits of a grey image of 16 bits are used, 8 to 16."""
        return self.options.bits if isinstance(self.options, ImageFileOptions) else images.FULL_BITS

    def read_mask(self, record: Record) -> npt.NDArray[np.bool_] | None:
        """The defect mask [H, W], True on the defect; None where the defect's place is unknown."""
        if record.mask is not None:
            return images.read_mask(Path(record.mask))
        return None

    def image_size(self, record: Record) -> tuple[int, int]:
        """(height, width) of the image in pixels after EXIF rotation, without decoding it where possible."""
        return images.size_of(Path(record.path))

    def mask_size(self, record: Record) -> tuple[int, int] | None:
        """(height, width) of the mask in pixels, None if the record has no mask."""
        return None if record.mask is None else images.mask_size(Path(record.mask))

    def mask_digest(self, record: Record) -> str:
        """sha256 of the mask's content (hex), as `digest` of the image; empty where there is none."""
        if type(self).read_mask is not Dataset.read_mask:
            mask = self.read_mask(record)
            return "" if mask is None else images.pixel_digest(mask)
        return "" if record.mask is None else images.mask_digest(Path(record.mask))

    def digest(self, record: Record) -> str:
        """sha256 of the image's content (hex): equal content has an equal digest.

        The file's, or where a subclass reads images in a way of its own, that of the pixels which it gives: what was
        computed of others must not be taken for theirs. Where not all of 16 bits are used, their number is part of it.
        """
        own = type(self)
        if own.read_image is not Dataset.read_image or own.read_file is not Dataset.read_file:
            return images.pixel_digest(self.read_image(record))
        digest = images.file_digest(Path(record.path))
        return digest if self.bits == images.FULL_BITS else sha256(f"{digest} {self.bits} bits".encode())


def _wrong(what: str, record: Record, wanted: str, found: npt.NDArray[np.generic]) -> str:
    return f"{record.path}: the dataset gives its {what} as {found.dtype} {list(found.shape)}, and must give {wanted}."
