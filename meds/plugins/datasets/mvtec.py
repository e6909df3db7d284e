"""The dataset `mvtec`: folders in the layout of MVTec AD, one or many classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from meds.core.dataset import ANOMALOUS, NORMAL, Dataset, DatasetOptions, Record, Split
from meds.core.errors import DataError
from meds.core.folder_names import NORMAL_NAMES
from meds.core.hookspecs import hookimpl
from meds.core.images import list_images, masks_by_image
from meds.core.registry import Plugin


class MvtecOptions(DatasetOptions):
    """Options of the dataset `mvtec`."""

    path: Path = Field(description="The folder that holds the class folders, or one class folder (with `train` in it).")
    classes: list[str] | None = Field(
        default=None, min_length=1, description="The classes to use; all that are found if left out."
    )


class MvtecDataset(Dataset[MvtecOptions]):
    """`<class>/train/good`, `<class>/test/<defect>` and `<class>/ground_truth/<defect>/<stem>_mask.png`.

    Folders named good, ok, normal or otherwise as normal (`NORMAL_NAMES`) hold normal images; any other folder, also
    below `train`, is a defect type.
    A mask may also be named `<stem>` and have any image suffix; a defect without one has no mask.
    """

    def records(self) -> Sequence[Record]:
        """All images by class, training images first, each part sorted by path.

        Raises DataError if the path has not that layout, a class is unknown, or one has no training image.
        """
        return [record for name, folder in self._class_folders() for record in _class_records(name, folder)]

    def _class_folders(self) -> list[tuple[str, Path]]:
        path = self.options.path
        if not path.is_dir():
            raise DataError(f"{path}: there is no such folder; check `dataset.path`.")
        if (path / "train").is_dir():
            found = {path.resolve().name: path}
        else:
            found = {folder.name: folder for folder in sorted(path.iterdir()) if (folder / "train").is_dir()}
        if not found:
            raise DataError(
                f"{path}: neither this folder nor one directly in it holds a `train` folder; `dataset.path` "
                "must lead to the layout <class>/train/good (`dataset.type: folder` takes a plain folder)."
            )
        wanted = sorted(found if self.options.classes is None else set(self.options.classes))
        for name in wanted:
            if name not in found:
                raise DataError(f"{path}: there is no class '{name}'; `dataset.classes` can name: {', '.join(found)}.")
        return [(name, found[name]) for name in wanted]


def _class_records(class_name: str, folder: Path) -> list[Record]:
    train = list(_split_records(class_name, folder, "train"))
    if not train:
        raise DataError(f"{folder / 'train'}: holds no training image; images belong in {folder / 'train' / 'good'}.")
    return train + list(_split_records(class_name, folder, "test"))


def _split_records(class_name: str, folder: Path, split: Split) -> Iterator[Record]:
    if not (folder / split).is_dir():
        return
    for kind in sorted((folder / split).iterdir()):
        if not kind.is_dir() or kind.name.startswith("."):
            continue
        normal = kind.name.lower() in NORMAL_NAMES
        # The masks belong to the test images: a training image of the same name is another image.
        mask_folder = folder / "ground_truth" / kind.name
        masked = split == "test" and not normal and mask_folder.is_dir()
        masks = masks_by_image(mask_folder) if masked else {}
        for path in list_images(kind):
            mask = masks.get(path.stem)
            yield Record(
                path=str(path),
                class_name=class_name,
                split=split,
                label=NORMAL if normal else ANOMALOUS,
                defect="good" if normal else kind.name,
                mask=None if mask is None else str(mask),
            )


@hookimpl
def meds_datasets() -> Sequence[Plugin]:
    """The plugin entry of this module."""
    return [
        Plugin(
            name="mvtec",
            options=MvtecOptions,
            load="meds.plugins.datasets.mvtec:MvtecDataset",
            summary="Folders in the layout of MVTec AD, with masks.",
        )
    ]
