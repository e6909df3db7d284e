"""The dataset `synthetic`: inspection images drawn in memory, with defects and exact masks."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from meds.core.dataset import ANOMALOUS, NORMAL, Dataset, DatasetOptions, Record
from meds.core.errors import DataError
from meds.core.hookspecs import hookimpl
from meds.core.registry import Plugin, unknown_name
from meds.plugins.datasets.synthetic_defects import SURFACES
from meds.plugins.datasets.synthetic_textures import Floats, photograph

# What an image's random numbers are drawn for: each has its own stream, so a defect changes no other pixel.
_SCENE, _CAMERA, _DEFECT = 0, 1, 2
_STREAMS = {"train": 0, "good": 1, "defective": 2}


class SyntheticOptions(DatasetOptions):
    """Options of the dataset `synthetic`."""

    classes: list[str] = Field(
        default=["weave", "tiles", "discs"],
        min_length=1,
        description=f"What to draw, each a class: {', '.join(SURFACES)}.",
    )
    train: int = Field(default=40, ge=2, description="Training images of a class, all normal.")
    test_normal: int = Field(default=12, ge=0, description="Normal test images of a class.")
    test_defective: int = Field(
        default=18, ge=0, description="Defective test images of a class; the defect types take turns."
    )
    image_size: int = Field(default=128, ge=32, le=2048, description="Height and width in pixels.")
    seed: int = Field(default=0, ge=0, description="Another seed draws other images.")
    contrast: float = Field(
        default=1.0, ge=0.1, le=2.0, description="Strength of the defects: smaller is harder to see."
    )

    @field_validator("classes")
    @classmethod
    def _known_once(cls, classes: list[str]) -> list[str]:
        for name in classes:
            if name not in SURFACES:
                raise ValueError(unknown_name("class", name, SURFACES))
        if len(set(classes)) < len(classes):
            raise ValueError("name each class once")
        return classes


class SyntheticDataset(Dataset[SyntheticOptions]):
    """Cloth, stone, tiles, flanges and bolts under changing light, drawn anew whenever they are read.

    An image is a function of (seed, class, split, index, size, contrast) alone, so asking for more images
    leaves the others as they are. Paths are names, no files: `synthetic/<class>/train/0003.png`,
    `synthetic/<class>/test/<defect>/0003.png`, `synthetic/<class>/mask/0003.png`.
    """

    def records(self) -> Sequence[Record]:
        """By class in the order of the options: training, then normal, then defective test images."""
        options, records = self.options, []
        for name in options.classes:
            defects = sorted(SURFACES[name][1])
            for index in range(options.train):
                records.append(Record(f"synthetic/{name}/train/{index:04}.png", name, "train", NORMAL, "good"))
            for index in range(options.test_normal):
                records.append(Record(f"synthetic/{name}/test/good/{index:04}.png", name, "test", NORMAL, "good"))
            for index in range(options.test_defective):
                defect = defects[index % len(defects)]
                path, mask = (
                    f"synthetic/{name}/test/{defect}/{index:04}.png",
                    f"synthetic/{name}/mask/{index:04}.png",
                )
                records.append(Record(path, name, "test", ANOMALOUS, defect, mask))
        return records

    def read_image(self, record: Record) -> npt.NDArray[np.uint8]:
        """The image as RGB [N, N, 3] uint8; DataError if the path is none of this dataset's."""
        return self._draw(record.path)[0]

    def read_mask(self, record: Record) -> npt.NDArray[np.bool_] | None:
        """Exactly the pixels that the defect changed, bool [N, N]; None for a normal image."""
        if record.mask is None:
            return None
        image, clean = self._draw(record.path)
        return np.asarray((image != clean).any(axis=2))

    def image_size(self, record: Record) -> tuple[int, int]:
        """(height, width) of the image, which the options fix; DataError as `read_image`."""
        _parsed(record.path)
        return self.options.image_size, self.options.image_size

    def mask_size(self, record: Record) -> tuple[int, int] | None:
        """(height, width) of the mask, None if the record has no mask."""
        return None if record.mask is None else self.image_size(record)

    def _draw(self, path: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """The image of that name and the same without its defect, both uint8 [N, N, 3]."""
        name, kind, index = _parsed(path)
        split = kind if kind in _STREAMS else "defective"
        size = self.options.image_size

        def stream(purpose: int) -> np.random.Generator:
            identity = [self.options.seed, zlib.crc32(name.encode()), _STREAMS[split], index, purpose]
            return np.random.default_rng(identity)

        surface, painters = SURFACES[name]
        scene, take = surface(stream(_SCENE), size), photograph(stream(_CAMERA), size)
        clean = take(scene.colours)
        if split != "defective":
            return clean, clean
        random, paint = stream(_DEFECT), painters[kind]

        def painted() -> Floats:
            return paint(random, scene, self.options.contrast)

        image = take(painted())
        while np.array_equal(image, clean):
            # A faint or small defect can leave every pixel as it was; the next draw of the stream may not.
            image = take(painted())
        return image, clean


def _parsed(path: str) -> tuple[str, str, int]:
    """(class, "train", "good" or defect type, index) of an image's name."""
    parts = PurePosixPath(path).with_suffix("").parts
    if parts[0:1] == ("synthetic",) and len(parts) in (4, 5) and parts[1] in SURFACES and parts[-1].isdecimal():
        kind = parts[-2]
        if (kind in _STREAMS and kind != "defective") or kind in SURFACES[parts[1]][1]:
            return parts[1], kind, int(parts[-1])
    raise DataError(f"{path}: the dataset `synthetic` has no such image; take paths from its records.")


@hookimpl
def meds_datasets() -> Sequence[Plugin]:
    """The plugin entry of this module."""
    return [
        Plugin(
            name="synthetic",
            options=SyntheticOptions,
            load="meds.plugins.datasets.synthetic:SyntheticDataset",
            summary="Drawn cloth, stone, tiles, flanges and bolts with exact defect masks (no data needed).",
        )
    ]
