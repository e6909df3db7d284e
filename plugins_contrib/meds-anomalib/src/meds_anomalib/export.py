"""Writes the training images that a run selected, and its test images, as data for anomalib."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from meds.api import UserError
from meds_anomalib.run_files import FinishedRun, TestImage, TrainingImage

TRAIN, NORMAL_TEST, DEFECTIVE, MASKS = "train", "test/normal", "test/defective", "masks"
FOLDER_FILE, SAMPLES_FILE = "folder.yaml", "samples.csv"
LIST_COLUMNS = ("rank", "path", "class", "score", "injected")
SAMPLE_COLUMNS = ("image_path", "label_index", "split", "mask_path")

# anomalib's engine insists on a validation set. By default `Folder` would take half of the test images for it.
WITH_TEST = {"test_split_mode": "from_dir", "val_split_mode": "same_as_test"}
WITHOUT_TEST = {"test_split_mode": "none", "val_split_mode": "from_train", "val_split_ratio": 0.1}


@dataclass(frozen=True)
class Link:
    """A file of the export: where it lies below the export's folder, and the image or mask that it stands for."""

    place: str
    source: Path


@dataclass(frozen=True)
class Export:
    """What an export holds; `masks` is empty unless every defective test image has one."""

    run: FinishedRun
    selected: tuple[TrainingImage, ...]
    left_out: tuple[TrainingImage, ...]
    train: tuple[Link, ...]
    normal: tuple[Link, ...]
    defective: tuple[Link, ...]
    masks: tuple[Link, ...]
    unlabelled: int
    without_mask: int
    in_both: int

    def links(self) -> tuple[Link, ...]:
        """All files of the export that stand for another."""
        return (*self.train, *self.normal, *self.defective, *self.masks)


def plan_export(run: FinishedRun) -> Export:
    """What to write for a run; UserError if an image is no file, or nothing was selected."""
    selected = tuple(image for image in run.training if image.selected)
    if not selected:
        raise UserError(f"The run '{run.name}' selected no training image, so there is nothing to export.")
    defective = [image for image in run.test if image.label == 1]
    # A mask may be a folder of several (MVTec LOCO), which anomalib's folders have no place for.
    masks = [image for image in defective if image.mask is not None and not Path(image.mask).is_dir()]
    complete = masks if len(masks) == len(defective) else []
    strangers = [image.path for image in run.training if image.path not in run.digests]
    if strangers:
        raise UserError(
            f"ranking.csv and data.csv of the run '{run.name}' do not belong together ('{strangers[0]}' is only in the "
            "first): run the spec again."
        )
    trained_on = {run.digests[image.path] for image in selected}
    return Export(
        run,
        selected,
        tuple(image for image in run.training if not image.selected),
        _links(run, TRAIN, [(image.class_name, image.path) for image in selected]),
        _links(run, NORMAL_TEST, [(image.class_name, image.path) for image in run.test if image.label == 0]),
        _links(run, DEFECTIVE, [(image.class_name, image.path) for image in defective]),
        _links(run, MASKS, [(image.class_name, str(image.mask)) for image in complete], defective),
        sum(image.label is None for image in run.test),
        len(defective) - len(masks),
        sum(image.sha256 in trained_on for image in run.test),
    )


def _links(
    run: FinishedRun, place: str, images: Sequence[tuple[str, str]], named_after: Sequence[TestImage] = ()
) -> tuple[Link, ...]:
    """One link an image, numbered: anomalib pairs images and masks by the order of their names."""
    links = []
    for number, (class_name, path) in enumerate(images):
        source = Path(path)
        if not source.is_file():
            raise UserError(_no_file(run, path))
        stem = Path(named_after[number].path).stem if named_after else source.stem
        links.append(Link(f"{place}/{class_name}/{number:06d}_{stem}{source.suffix}", source.absolute()))
    return tuple(links)


def _no_file(run: FinishedRun, path: str) -> str:
    if run.dataset == "synthetic":
        return "The dataset `synthetic` draws its images in memory, and anomalib needs files: export another run."
    where = "" if Path(path).is_absolute() else "; its path is relative, so start from where `meds run` was started"
    return f"The image '{path}' of the run '{run.name}' is not there{where}."


def write_export(export: Export, folder: Path, copy: bool) -> None:
    """Write the export; UserError if the folder holds something already, or anomalib would refuse its path."""
    root = folder.absolute()
    if not (str(root.resolve()).isascii() and str(root.resolve()).isprintable()):
        raise UserError(
            f"anomalib reads no folder whose path has other than ASCII characters ({root}): choose another."
        )
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{folder} is not empty: choose a new folder, or remove it.")
    for link in export.links():
        target = root / link.place
        target.parent.mkdir(parents=True, exist_ok=True)
        if copy:
            shutil.copyfile(link.source, target)
        else:
            target.symlink_to(link.source)
    _csv(root / "selected.csv", LIST_COLUMNS, map(_row, export.selected))
    _csv(root / "left-out.csv", LIST_COLUMNS, map(_row, export.left_out))
    _csv(root / SAMPLES_FILE, SAMPLE_COLUMNS, _samples(export))
    (root / FOLDER_FILE).write_text(folder_configuration(export, root), encoding="utf-8")


def folder_configuration(export: Export, root: Path) -> str:
    """The YAML of anomalib's datamodule `Folder` for an export that lies in `root`."""
    arguments: dict[str, Any] = {"name": export.run.name, "root": str(root), "normal_dir": TRAIN}
    if export.defective:
        arguments["abnormal_dir"] = DEFECTIVE
    if export.normal:
        arguments["normal_test_dir"] = NORMAL_TEST
    if export.masks:
        arguments["mask_dir"] = MASKS
    arguments |= WITH_TEST if export.normal or export.defective else WITHOUT_TEST
    text = yaml.safe_dump({"class_path": "anomalib.data.Folder", "init_args": arguments}, sort_keys=False)
    return f"# The {len(export.train)} training images that the meds run '{export.run.name}' selected.\n{text}"


def _row(image: TrainingImage) -> dict[str, Any]:
    return {
        "rank": image.rank,
        "path": image.path,
        "class": image.class_name,
        "score": image.score,
        "injected": int(image.injected),
    }


def _samples(export: Export) -> Iterable[dict[str, Any]]:
    """Rows for anomalib's `Tabular`, which needs no links; it knows no training image that is not normal."""
    masks = [str(link.source) for link in export.masks] or [""] * len(export.defective)
    for links, label, split in ((export.train, 0, "train"), (export.normal, 0, "test")):
        for link in links:
            yield {"image_path": str(link.source), "label_index": label, "split": split, "mask_path": ""}
    for link, mask in zip(export.defective, masks, strict=True):
        yield {"image_path": str(link.source), "label_index": 1, "split": "test", "mask_path": mask}


def _csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
