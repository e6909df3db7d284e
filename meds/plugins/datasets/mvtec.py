"""The dataset `mvtec`: folders in the layout of MVTec AD, one or many classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from meds.core.dataset import ANOMALOUS, NORMAL, Dataset, ImageFileOptions, Record, Split
from meds.core.errors import DataError
from meds.core.folder_names import IMAGE_NAMES, LABEL_NAMES, MASK_NAMES, NORMAL_NAMES, is_called
from meds.core.hookspecs import hookimpl
from meds.core.image_files import EXCLUDE, folder_called, folders_in, list_images, list_wanted, masks_by_image
from meds.core.registry import Plugin

MASKS = "ground_truth"
# Folders side by side in the folder of a type of defect.
IMAGES_INSIDE = IMAGE_NAMES | {"rgb"}
MASKS_INSIDE = MASK_NAMES | LABEL_NAMES
DEPTHS_INSIDE = frozenset({"xyz", "depth", "pcd", "z"})


class MvtecOptions(ImageFileOptions):
    """Options of the dataset `mvtec`."""

    path: Path = Field(description="The folder that holds the class folders, or one class folder (with `train` in it).")
    classes: list[str] | None = Field(
        default=None, min_length=1, description="The classes to use; all that are found if left out."
    )
    exclude: list[str] | None = Field(default=None, min_length=1, description=EXCLUDE)


class MvtecDataset(Dataset[MvtecOptions]):
    """`<class>/train/good`, `<class>/test/<defect>` and `<class>/ground_truth/<defect>/<stem>_mask.png`.

    Folders named good, ok, normal or otherwise as normal (`NORMAL_NAMES`) hold normal images; any other folder, also
    below `train`, is a defect type. Capitals and signs between words do not matter, and images may lie in folders
    further down. A mask may also be named `<stem>` and have any image suffix, or be a folder `<stem>` of several (MVTec
    LOCO); a defect without one has no mask. Where there is no `test`, `test_public` with its own `ground_truth` is the
    test (MVTec AD 2). Where images, masks and depths of a type lie side by side (`rgb`, `gt` and `xyz` in MVTec 3D-AD,
    `img` and `label` in BMAD), each is read as what it is, and depths are not read.
    """

    def records(self) -> Sequence[Record]:
        """All images by class, training images first, each part sorted by path.

        Raises DataError if the path has not that layout, a class is unknown, or one has no training image.
        """
        return [record for name, folder in self._class_folders() for record in self._class_records(name, folder)]

    def _class_folders(self) -> list[tuple[str, Path]]:
        path = self.options.path
        if not path.is_dir():
            raise DataError(f"{path}: there is no such folder; check `dataset.path`.")
        if folder_called(path, "train"):
            found = {path.resolve().name: path}
        else:
            found = {folder.name: folder for folder in folders_in(path) if folder_called(folder, "train")}
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

    def _class_records(self, class_name: str, folder: Path) -> list[Record]:
        parts = parts_of(folder)
        train = [] if parts.train is None else list(self._split_records(class_name, "train", parts.train, None))
        if not train:
            place = parts.train or folder / "train"
            raise DataError(f"{place}: holds no training image; images belong in {place / 'good'}.")
        test = () if parts.test is None else self._split_records(class_name, "test", parts.test, parts.masks)
        return [*train, *test]

    def _split_records(self, class_name: str, split: Split, folder: Path, masks: Path | None) -> Iterator[Record]:
        for kind in kinds_of(folder, masks):
            normal = is_called(kind.name, NORMAL_NAMES)
            found = _Masks(None if normal else kind.masks)
            for path in list_wanted(kind.images, True, self.options.path, self.options.exclude):
                yield Record(
                    path=str(path),
                    class_name=class_name,
                    split=split,
                    label=NORMAL if normal else ANOMALOUS,
                    defect="good" if normal else kind.name,
                    mask=found.of(path.relative_to(kind.images)),
                )


@dataclass(frozen=True)
class Parts:
    """The folders of a class: of the training images, the test images, and the masks, None where there is none."""

    train: Path | None
    test: Path | None
    masks: Path | None


def parts_of(folder: Path) -> Parts:
    """The parts of a class folder."""
    test = folder_called(folder, "test", "test_public")
    # The masks belong to the test images: a training image of the same name is another image.
    masks = folder_called(folder, MASKS) or folder_called(test, MASKS)
    return Parts(folder_called(folder, "train"), test, masks)


@dataclass(frozen=True)
class Kind:
    """The folders of a type of defect, or of normal images: of the images and of their masks, None without any."""

    name: str
    images: Path
    masks: Path | None


def kinds_of(folder: Path, masks: Path | None) -> list[Kind]:
    """What lies in the training or the test folder of a class, whose masks lie in `masks`."""
    return [_kind_of(kind, folder_called(masks, kind.name)) for kind in folders_in(folder) if kind != masks]


def _kind_of(folder: Path, masks: Path | None) -> Kind:
    inside = folders_in(folder)
    images = [f for f in inside if is_called(f.name, IMAGES_INSIDE)]
    beside = [f for f in inside if is_called(f.name, MASKS_INSIDE | DEPTHS_INSIDE)]
    if len(images) != 1 or not beside or len(inside) > 1 + len(beside) or list_images(folder):
        return Kind(folder.name, folder, masks)
    return Kind(folder.name, images[0], next((f for f in beside if is_called(f.name, MASKS_INSIDE)), masks))


class _Masks:
    """The masks of a type of defect: a file or a folder of files for an image."""

    def __init__(self, folder: Path | None) -> None:
        self._files = {} if folder is None else masks_by_image(folder, recursive=True)
        self._folders = {name.rpartition("/")[0]: path.parent for name, path in self._files.items()}

    def of(self, image: Path) -> str | None:
        name = image.with_suffix("").as_posix()
        found = self._files.get(name) or self._folders.get(name)
        return None if found is None else str(found)


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
