"""The dataset `real-iad`: Real-IAD by its JSON lists, with several views and the noisy FUIAD lists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from meds.core.dataset import ANOMALOUS, NORMAL, Dataset, ImageFileOptions, Record, Split
from meds.core.errors import DataError
from meds.core.hookspecs import hookimpl
from meds.core.registry import Plugin

IMAGE_FOLDERS = ("realiad_1024", "realiad_512", "realiad_256", "realiad_raw")
LISTS_PARENT = "realiad_jsons"
VIEW = re.compile(r"_(C[1-5])_")
SPLITS: tuple[Split, Split] = ("train", "test")
View = Literal["C1", "C2", "C3", "C4", "C5"]


class RealIadOptions(ImageFileOptions):
    """Options of the dataset `real-iad`."""

    path: Path = Field(description="The folder that holds the image folder and the folder of JSON lists.")
    lists: str = Field(
        default="realiad_jsons",
        description='Folder of the JSON lists, such as "realiad_jsons_sv" or "realiad_jsons_fuiad_0.4", directly in '
        "`path` or in its folder `realiad_jsons`.",
    )
    images: str | None = Field(
        default=None,
        description=f"Folder of the images; default: the first that is there of {', '.join(IMAGE_FOLDERS)}.",
    )
    classes: list[str] | None = Field(
        default=None, min_length=1, description="The classes to use; all that have a list if left out."
    )
    views: list[View] | None = Field(default=None, min_length=1, description="The camera views to use; default: all.")


class RealIadDataset(Dataset[RealIadOptions]):
    """Real-IAD (Wang et al., CVPR 2024). An image is a defect if its own entry has a mask and an anomaly class.

    Labels come from the lists, never from the path: many images of defective objects show no defect. In the FUIAD
    lists this makes some training images known defects, which count as contamination like injected ones.
    """

    def records(self) -> Sequence[Record]:
        """All images by class, training images first, each part sorted by path.

        Raises DataError if a folder or a list is missing, a list is malformed, or (unless the dataset is told to
        skip what cannot be read) an image or a mask is missing.
        """
        lists, images = self._lists(), self._images()
        found = {file.stem: file for file in sorted(lists.glob("*.json"))}
        if not found:
            raise DataError(f"{lists}: holds no JSON list; check `dataset.lists`.")
        wanted = sorted(found if self.options.classes is None else set(self.options.classes))
        for name in wanted:
            if name not in found:
                raise DataError(
                    f"{lists}: there is no list '{name}.json'; `dataset.classes` can name: {', '.join(found)}."
                )
        records = [record for name in wanted for record in self._of_class(name, found[name], images)]
        if not records:
            raise DataError(f"{lists}: no image has one of the views {self.options.views}; check `dataset.views`.")
        return records

    def _lists(self) -> Path:
        folder = self.options.path / self.options.lists
        # The usual download holds all folders of lists in one folder, others put each into one of the same name.
        for place in (folder / folder.name, folder, self.options.path / LISTS_PARENT / self.options.lists):
            if place.is_dir():
                return place
        raise DataError(f"{folder}: there is no such folder; check `dataset.path` and `dataset.lists`.")

    def _images(self) -> Path:
        names = IMAGE_FOLDERS if self.options.images is None else (self.options.images,)
        for name in names:
            if (self.options.path / name).is_dir():
                return self.options.path / name
        raise DataError(f"{self.options.path}: holds no image folder {' or '.join(names)}; check `dataset.path`.")

    def _of_class(self, name: str, file: Path, images: Path) -> list[Record]:
        content = _read(file)
        records = []
        for split in SPLITS:
            part = list(self._of_split(name, file, images, content, split))
            records += sorted(part, key=lambda record: record.path)
        return records

    def _of_split(self, name: str, file: Path, images: Path, content: dict[str, Any], split: Split) -> Iterator[Record]:
        prefix, normal_class = content["meta"]["prefix"], content["meta"]["normal_class"]
        for number, entry in enumerate(content[split]):
            where = f"{file}: entry {number} of '{split}'"
            if not isinstance(entry, dict):
                raise DataError(f"{where} is no object with 'image_path', 'anomaly_class' and 'mask_path'.")
            image, kind, mask = (entry.get(key) for key in ("image_path", "anomaly_class", "mask_path"))
            if not isinstance(image, str) or not isinstance(kind, str):
                raise DataError(f"{where} needs texts for 'image_path' and 'anomaly_class'.")
            if mask is not None and not isinstance(mask, str):
                raise DataError(f"{where} needs a text or null for 'mask_path'.")
            view = VIEW.search(Path(image).name)
            if self.options.views is not None and (view is None or view[1] not in self.options.views):
                continue
            if kind == normal_class:
                mask = None
            yield Record(
                path=self._file(where, images / prefix / image),
                class_name=name,
                split=split,
                label=NORMAL if mask is None else ANOMALOUS,
                defect="good" if mask is None else kind,
                mask=None if mask is None else self._file(where, images / prefix / mask),
            )

    def _file(self, where: str, path: Path) -> str:
        if self.options.unreadable == "error" and not path.is_file():
            raise DataError(f"{where}: there is no file {path}; complete the copy or set `dataset.unreadable: skip`.")
        return str(path)


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{error.lineno}: the list is no JSON ({error.msg}).") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: the list cannot be read ({error}).") from error
    meta = content.get("meta") if isinstance(content, dict) else None
    wanted = (
        isinstance(meta, dict) and isinstance(meta.get("prefix"), str) and isinstance(meta.get("normal_class"), str)
    )
    if not wanted or not all(isinstance(content.get(split), list) for split in SPLITS):
        raise DataError(f"{file}: the list needs 'meta' with 'prefix' and 'normal_class', 'train' and 'test'.")
    return dict(content)


@hookimpl
def meds_datasets() -> Sequence[Plugin]:
    """The plugin entry of this module."""
    return [
        Plugin(
            name="real-iad",
            options=RealIadOptions,
            load="meds.plugins.datasets.real_iad:RealIadDataset",
            summary="Real-IAD by its JSON lists, with several views and the noisy FUIAD lists.",
        )
    ]
