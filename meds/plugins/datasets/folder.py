"""The dataset `folder`: a plain folder of images, with or without known defects set apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
from pydantic import Field, model_validator

from meds.core.data import MINIMUM_TRAINING_IMAGES, too_few_images
from meds.core.dataset import ANOMALOUS, NORMAL, Dataset, ImageFileOptions, Record
from meds.core.errors import DataError
from meds.core.folder_names import ABNORMAL_NAMES, NORMAL_NAMES, is_called
from meds.core.hookspecs import hookimpl
from meds.core.image_files import (
    EXCLUDE,
    IMAGE_SUFFIXES,
    excluded,
    folders_in,
    holds_other_files_alone,
    list_images,
    list_wanted,
    masks_by_image,
)
from meds.core.registry import Plugin


class FolderOptions(ImageFileOptions):
    """Options of the dataset `folder`."""

    path: Path = Field(description="The folder with the images, or with the folders named below.")
    normal: Path | None = Field(
        default=None, description="Folder of images known to be normal, below `path` or a path of its own."
    )
    abnormal: Path | None = Field(
        default=None,
        description="Folder of images known to be defective; used for testing only. Needs `normal`. With `recursive`, "
        "`.` takes every folder beside `normal` as a type of defect.",
    )
    mask: Path | None = Field(
        default=None,
        description="Folder of the defects' masks, named as the image or <image>_mask (_gt, _label, _seg). Needs "
        "`abnormal`.",
    )
    exclude: list[str] | None = Field(default=None, min_length=1, description=EXCLUDE)
    test_fraction: float = Field(
        default=0.4,
        gt=0,
        lt=1,
        description="Share of the normal images kept for testing if `abnormal` is given.",
    )
    class_name: str | None = Field(
        default=None, min_length=1, description="Name of the class; the folder's name if left out."
    )
    class_folders: bool = Field(
        default=False,
        description="Whether every sub-folder of `path` is a class of its own, for which the other options hold; those "
        "that hold files and no image are left out.",
    )
    recursive: bool = Field(default=False, description="Whether to take the images of sub-folders too.")
    seed: int = Field(default=0, ge=0, description="Draws the normal images that are kept for testing.")

    @model_validator(mode="after")
    def _folders_belong_together(self) -> FolderOptions:
        if self.abnormal is not None and self.normal is None:
            raise ValueError(
                "`abnormal` needs `normal` as well, or there is nothing normal to test against "
                "(`normal: .` takes the images directly in `path`)"
            )
        if self.mask is not None and self.abnormal is None:
            raise ValueError("`mask` needs `abnormal` as well: only defective images have masks")
        if self.class_folders and self.class_name is not None:
            raise ValueError(
                "`class_folders` names the classes by their folders, so `class_name` has no place beside it"
            )
        return self


class FolderDataset(Dataset[FolderOptions]):
    """Images of one class, or of one class for every sub-folder (`class_folders`).

    Without `normal`, all images are training images whose label is unknown. With `normal`, its images
    are normal training images. With `abnormal` too, its images and a share of the normal ones, drawn by
    `seed`, are the test images.
    """

    def __init__(self, options: FolderOptions, root: Path | None = None) -> None:
        """`root` is the folder that the patterns of `exclude` begin at; `path` if left out."""
        super().__init__(options)
        self._root = root or options.path

    def records(self) -> Sequence[Record]:
        """Training images, then test images, each part sorted by path.

        Raises DataError if a folder is missing or empty, if fewer than two images are left to train on,
        or if labelled sub-folders lie in a folder without images and no option says what they are.
        """
        path = self.options.path
        if not path.is_dir():
            raise DataError(f"{path}: there is no such folder; check `dataset.path`.")
        if self.options.class_folders:
            return self._by_class()
        if self.options.normal is None:
            train, test = self._unlabelled(), list[Record]()
        else:
            train, test = self._labelled(self._folder("normal", self.options.normal))
        if len(train) < MINIMUM_TRAINING_IMAGES:
            raise too_few_images(f"The folder {path} has", len(train))
        return train + test

    def _by_class(self) -> list[Record]:
        path = self.options.path
        folders = folders_in(path)
        if not folders:
            raise DataError(f"{path}: holds no folder, and `dataset.class_folders` takes each folder as a class.")
        wanted = [folder for folder in folders if not self._left_out(folder)]
        if not wanted:
            raise DataError(f"{path}: no folder in it holds an image; check `dataset.path`.")
        return [record for folder in wanted for record in self._of_folder(folder).records()]

    def _left_out(self, folder: Path) -> bool:
        """Whether nothing in a folder can be an image of a class: other files, or what `exclude` leaves out."""
        if holds_other_files_alone(folder):
            return True
        found = list_images(folder, recursive=True) if self.options.exclude else []
        return bool(found) and all(excluded(path, self._root, self.options.exclude) for path in found)

    def _of_folder(self, folder: Path) -> FolderDataset:
        # By its name here: a link may lead to a folder of another name.
        own = {"class_folders": False, "path": folder, "class_name": folder.name}
        return FolderDataset(self.options.model_copy(update=own), self.options.path)

    def _unlabelled(self) -> list[Record]:
        path = self.options.path
        found = self._listed(path)
        if not found:
            raise DataError(f"{path}: holds no image; {_advice(path)}")
        return [Record(str(image), self._class_name(), "train") for image in found]

    def _labelled(self, normal: Path) -> tuple[list[Record], list[Record]]:
        abnormal = self._folder("abnormal", self.options.abnormal)
        masks = self._folder("mask", self.options.mask)
        if abnormal == normal:
            raise DataError(f"{normal}: `dataset.normal` and `dataset.abnormal` must be different folders.")
        name, images = self._class_name(), self._images(normal, "normal", (abnormal, masks))
        held_out: set[int] = set()
        if abnormal is not None:
            order = np.random.default_rng(self.options.seed).permutation(len(images))
            held_out = set(order[: max(1, round(len(images) * self.options.test_fraction))].tolist())
        train = [Record(str(p), name, "train", NORMAL, "good") for i, p in enumerate(images) if i not in held_out]
        test = [Record(str(p), name, "test", NORMAL, "good") for i, p in enumerate(images) if i in held_out]
        return train, test + ([] if abnormal is None else self._defective(abnormal, normal, masks))

    def _defective(self, abnormal: Path, normal: Path, masks: Path | None) -> list[Record]:
        images = self._images(abnormal, "abnormal", (normal, masks))
        by_image = {} if masks is None else _masks(masks, abnormal, images, self.options.recursive)
        records = []
        for path in images:
            inside = path.relative_to(abnormal)
            mask = by_image.get(path)
            records.append(
                Record(
                    path=str(path),
                    class_name=self._class_name(),
                    split="test",
                    label=ANOMALOUS,
                    defect=abnormal.name if inside.parent == Path() else inside.parent.as_posix(),
                    mask=None if mask is None else str(mask),
                )
            )
        if masks is not None and not any(record.mask for record in records):
            raise DataError(
                f"{masks}: no file is named after an image of {abnormal} (<image>.png or <image>_mask.png); "
                "rename the masks or leave out `dataset.mask`."
            )
        return records

    def _images(self, folder: Path, option: str, others: Sequence[Path | None]) -> list[Path]:
        """The images of a folder without those of other folders inside it."""
        inside = [other for other in others if other is not None and other != folder and other.is_relative_to(folder)]
        found = [path for path in self._listed(folder) if not any(path.is_relative_to(other) for other in inside)]
        if not found:
            raise DataError(f"{folder}: the folder of `dataset.{option}` holds no image; {_advice(folder)}")
        return found

    def _listed(self, folder: Path) -> list[Path]:
        return list_wanted(folder, self.options.recursive, self._root, self.options.exclude)

    @overload
    def _folder(self, option: str, value: Path) -> Path: ...
    @overload
    def _folder(self, option: str, value: Path | None) -> Path | None: ...
    def _folder(self, option: str, value: Path | None) -> Path | None:
        """A folder option as a path: below `path` if it is there, else as it is."""
        if value is None:
            return None
        for folder in (self.options.path / value, value):
            if folder.is_dir():
                return folder
        raise DataError(
            f"{self.options.path / value}: there is no such folder, nor one at {value}; check `dataset.{option}`."
        )

    def _class_name(self) -> str:
        return self.options.class_name or self.options.path.resolve().name or "images"


def _masks(masks: Path, abnormal: Path, images: Sequence[Path], recursive: bool) -> dict[Path, Path]:
    """The mask of each image that has one, by its path, else by its name directly in the folder of the masks."""
    by_name = masks_by_image(masks, recursive)
    names = {path: path.relative_to(abnormal).with_suffix("").as_posix() for path in images}
    found = {path: by_name[name] for path, name in names.items() if name in by_name}
    without: dict[str, list[Path]] = {}
    for path in images:
        if path not in found:
            without.setdefault(path.stem, []).append(path)
    for name in sorted(by_name.keys() & without.keys() - set(names.values())):
        mask, alike = by_name[name], without[name]
        if len(alike) > 1:
            raise DataError(
                f"{mask}: {len(alike)} defective images are called '{name}' ({alike[0]}, {alike[1]}), so whose mask it "
                f"is cannot be told; move it into a folder, as {masks / names[alike[0]]}{mask.suffix}."
            )
        found[alike[0]] = mask
    return found


def _advice(folder: Path) -> str:
    """What to do about a folder without images: ends the sentence of a DataError."""
    folders = folders_in(folder)
    normal = [entry.name for entry in folders if is_called(entry.name, NORMAL_NAMES)]
    abnormal = [entry.name for entry in folders if is_called(entry.name, ABNORMAL_NAMES)]
    settings = [f"`dataset.normal: {name}`" for name in normal[:1]]
    settings += [f"`dataset.abnormal: {name}`" for name in abnormal[:1]]
    if settings:
        return f"set {' and '.join(settings)} to say what its sub-folders hold."
    if any(entry.name.lower() == "train" for entry in folders):
        return "`dataset.type: mvtec` takes folders with train and test in them."
    if any(list_images(entry, recursive=True) for entry in folders):
        return "set `dataset.recursive: true` to take the images of its sub-folders."
    return f"put images there ({', '.join(sorted(IMAGE_SUFFIXES))})."


@hookimpl
def meds_datasets() -> Sequence[Plugin]:
    """The plugin entry of this module."""
    return [
        Plugin(
            name="folder",
            options=FolderOptions,
            load="meds.plugins.datasets.folder:FolderDataset",
            summary="A plain folder of images, labels not needed.",
        )
    ]
