"""The dataset `masked`: images with masks beside them, which say of each image whether it is defective."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field, model_validator

from meds.core.dataset import ANOMALOUS, NORMAL, Dataset, ImageFileOptions, Record, Split
from meds.core.errors import DataError
from meds.core.hookspecs import hookimpl
from meds.core.image_files import folder_called, folders_in, list_images
from meds.core.images import read_mask
from meds.core.registry import Plugin

DEFECT = "defect"


class MaskedOptions(ImageFileOptions):
    """Options of the dataset `masked`."""

    path: Path = Field(description="The folder with the images, or with the folders named below.")
    ending: str = Field(
        min_length=1,
        description="What follows an image's name in that of its mask, as `_GT` in `20000_GT.png`; capitals do not "
        "matter. A mask lies beside its image or in a folder there.",
    )
    train: str | None = Field(
        default=None, min_length=1, description="Folder of the training images; default: all images are."
    )
    test: str | None = Field(default=None, min_length=1, description="Folder of the test images. Needs `train`.")
    class_folders: bool = Field(
        default=False,
        description="Whether every folder in `path` is a class of its own, with `train` and `test` in it.",
    )

    @model_validator(mode="after")
    def _test_needs_train(self) -> MaskedOptions:
        if self.test is not None and self.train is None:
            raise ValueError("`test` needs `train` as well, or its images would be training images too")
        return self


class MaskedDataset(Dataset[MaskedOptions]):
    """`train/20000.png` and `train/20000_GT.png` (KolektorSDD2), `Train/1.PNG` and `Train/Label/1_label.PNG` (DAGM).

    An image is a defect if its mask shows one (see `read_mask`), and normal if the mask is empty or there is none.
    Training images that are defects are known ones: they stay, as contamination, and reports count them.
    """

    def records(self) -> Sequence[Record]:
        """All images by class, training images first, each part sorted by path.

        Raises DataError if a folder or an image is missing, no image has a mask, or a mask belongs to no image or
        (unless the dataset is told to skip what cannot be read) cannot be read.
        """
        path = self.options.path
        if not path.is_dir():
            raise DataError(f"{path}: there is no such folder; check `dataset.path`.")
        folders = folders_in(path) if self.options.class_folders else [path]
        found = [record for folder in folders for record in self._of_class(folder)]
        if not any(record.split == "train" for record in found):
            raise DataError(f"{path}: holds no image to train on; check `dataset.path` and `dataset.train`.")
        if not any(record.mask for record in found):
            raise DataError(
                f"{path}: no image has a mask that shows a defect, a file called as the image with "
                f"'{self.options.ending}' after it; check `dataset.ending`, or take `dataset.type: folder`."
            )
        return found

    def _of_class(self, folder: Path) -> Iterator[Record]:
        # A class folder by its name here: a link may lead to a folder of another name.
        class_name = folder.name if self.options.class_folders else folder.resolve().name or "images"
        names: list[tuple[Split, str | None]] = [("train", self.options.train), ("test", self.options.test)]
        for split, name in names:
            if name is not None or split == "train":
                place = folder if name is None else folder_called(folder, name)
                if place is None:
                    raise DataError(f"{folder}: holds no folder '{name}'; check `dataset.{split}`.")
                yield from self._of_split(place, class_name, split)

    def _of_split(self, place: Path, class_name: str, split: Split) -> Iterator[Record]:
        listed = list_images(place, recursive=True)
        masks = [path for path in listed if self._is_mask(path)]
        index = {(path.parent.parent, self._image_of(path)): path for path in masks}
        index |= {(path.parent, self._image_of(path)): path for path in masks}
        used = set()
        for path in sorted(set(listed) - set(masks)):
            mask = index.get((path.parent, path.stem.lower()))
            used.add(mask)
            shows = mask is not None and self._shows_a_defect(mask)
            yield Record(
                path=str(path),
                class_name=class_name,
                split=split,
                label=ANOMALOUS if shows else NORMAL,
                defect=DEFECT if shows else "good",
                mask=str(mask) if shows else None,
            )
        alone = set(masks) - used
        if alone:
            raise DataError(
                f"{min(alone)}: there is no image for this mask, called as it without '{self.options.ending}'; check "
                "`dataset.ending`, or move it away."
            )

    def _is_mask(self, path: Path) -> bool:
        return path.stem.lower().endswith(self.options.ending.lower())

    def _image_of(self, mask: Path) -> str:
        return mask.stem.lower().removesuffix(self.options.ending.lower())

    def _shows_a_defect(self, mask: Path) -> bool:
        try:
            return bool(read_mask(mask).any())
        except DataError:
            if self.options.unreadable == "error":
                raise
            # A run that reads it once more leaves its image out, and lists it.
            return True


@hookimpl
def meds_datasets() -> Sequence[Plugin]:
    """The plugin entry of this module."""
    return [
        Plugin(
            name="masked",
            options=MaskedOptions,
            load="meds.plugins.datasets.masked:MaskedDataset",
            summary="Images with masks beside them, which say which are defective (KolektorSDD, DAGM).",
        )
    ]
