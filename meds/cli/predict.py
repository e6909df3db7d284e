"""`meds predict`: scores new images with a finished run."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from meds.cli.console import ConsoleReporter, console
from meds.core.errors import DataError, UserError

if TYPE_CHECKING:
    from meds.core.predict import AnyPredictor, Prediction

COLUMNS = ("path", "class", "score", "threshold", "decision", "heatmap", "mask")
PICTURES = ("heatmap", "mask")
# Bytes: file systems allow 255, with a number and the suffix.
_LONGEST_NAME = 240


@dataclass(frozen=True)
class PredictRequest:
    """What `meds predict` was asked for."""

    run: Path
    images: tuple[str, ...]
    output: Path
    class_name: str | None = None
    threshold: float | None = None
    false_alarm_rate: float | None = None
    heatmaps: bool = True
    as_json: bool = False


def predict_images(request: PredictRequest) -> None:
    """Score the images; one line each, as soon as it is known. Unreadable files are named at the end.

    Raises:
        UserError: no image is given, a class is unknown, the threshold is given twice, or (after all others are
            done) files were unreadable.
    """
    if request.threshold is not None and request.false_alarm_rate is not None:
        raise UserError("--threshold and --false-alarm-rate both set the threshold; give one of them.")
    paths = list(_files(request.images, [request.output / f"{kind}s" for kind in PICTURES]))
    if not paths:
        raise UserError(f"No images were found in {', '.join(request.images)}.")
    from meds.core.files import full_disk_is_a_user_error
    from meds.core.predict import BATCH
    from meds.core.stage import SilentReporter

    predictor = _predictor(request.run)
    if request.threshold is not None:
        predictor.thresholds.set_image(request.threshold)
    if request.false_alarm_rate is not None:
        predictor.thresholds.set_false_alarm_rate(request.false_alarm_rate)
    count, missing = len(paths), dict.fromkeys(path for path in paths if not path.exists())
    failures = [f"{path}: there is no such file." for path in missing]
    paths = [path for path in paths if path not in missing]
    if not paths:
        raise UserError("\n".join(failures))
    classes = [_class_of(path, request.class_name, predictor.class_names) for path in paths]
    reporter = SilentReporter() if request.as_json else ConsoleReporter()
    with (
        full_disk_is_a_user_error(request.output),
        _Writer(request, predictor) as writer,
        reporter.bar("predict", len(paths)) as bar,
    ):
        for start in range(0, len(paths), BATCH):
            _predict_batch(predictor, paths[start : start + BATCH], classes[start : start + BATCH], writer, failures)
            bar.advance(len(paths[start : start + BATCH]))
    if not request.as_json:
        console.print(
            f"{writer.anomalous} of {writer.count} images are anomalous. Written to {request.output}: predictions.csv, "
            "predictions.jsonl" + (", heatmaps, masks." if request.heatmaps else "."),
            soft_wrap=True,
        )
    if failures:
        raise DataError("\n".join([*failures, f"{len(failures)} of {count} images could not be read."]))


def _predictor(path: Path) -> AnyPredictor:
    """Of a run directory, or of a file that `meds export` wrote."""
    if path.is_file():
        from meds.export.exported import open_exported

        return open_exported(path)
    from meds.core.finished_run import FinishedRun
    from meds.core.predict import Predictor

    return Predictor(FinishedRun(path))


def _predict_batch(
    predictor: AnyPredictor, paths: Sequence[Path], classes: Sequence[str], writer: _Writer, failures: list[str]
) -> None:
    from meds.core.images import UnreadableImageError

    images, known = [], []
    for path, name in zip(paths, classes, strict=True):
        try:
            images.append(predictor.read(path))
        except UnreadableImageError as error:
            failures.append(error.what)
        else:
            known.append((path, name))
    for (path, name), image, found in zip(
        known, images, predictor.predict(images, [name for _, name in known]), strict=True
    ):
        if not math.isfinite(found.score):
            raise UserError(
                f"{path}: the detector's score for it is {found.score}, so the detector is damaged; export it again, "
                "or run its spec again."
            )
        writer.write(path, name, image, found)


class _Writer:
    """Writes predictions.csv, predictions.jsonl and the pictures, line by line."""

    def __init__(self, request: PredictRequest, predictor: AnyPredictor) -> None:
        self._request, self._predictor = request, predictor
        self.count = self.anomalous = 0
        self._names: set[str] = set()

    def __enter__(self) -> _Writer:
        self._request.output.mkdir(parents=True, exist_ok=True)
        self._csv: IO[str] = (self._request.output / "predictions.csv").open("w", encoding="utf-8", newline="")
        self._lines: IO[str] = (self._request.output / "predictions.jsonl").open("w", encoding="utf-8")
        self._rows = csv.DictWriter(self._csv, COLUMNS, lineterminator="\n")
        self._rows.writeheader()
        return self

    def __exit__(self, *_: object) -> None:
        self._csv.close()
        self._lines.close()

    def write(self, path: Path, class_name: str, image: Any, found: Prediction) -> None:
        """One image."""
        row: dict[str, Any] = {
            "path": str(path),
            "class": class_name,
            "score": float(f"{found.score:.8g}"),
            "threshold": float(f"{found.threshold:.8g}"),
            "decision": "anomalous" if found.anomalous else "normal",
        } | dict.fromkeys(PICTURES)
        if self._request.heatmaps:
            row |= self._pictures(path, class_name, image, found)
        self._rows.writerow({key: "" if value is None else value for key, value in row.items()})
        line = json.dumps(row, ensure_ascii=False)
        self._lines.write(line + "\n")
        self._csv.flush()
        self._lines.flush()
        self.count, self.anomalous = self.count + 1, self.anomalous + found.anomalous
        if self._request.as_json:
            print(line, flush=True)  # noqa: T201 - lines for another program
        else:
            console.print(f"{row['decision']:<9}  {found.score:.4f}  {path}", soft_wrap=True)

    def _pictures(self, path: Path, class_name: str, image: Any, found: Prediction) -> dict[str, str]:
        import numpy as np

        from meds.core import files, heatmaps

        predictor = self._predictor
        values = heatmaps.on_image(found.map, image.shape[0], image.shape[1], predictor.preprocessing)
        shown = heatmaps.fit_to_screen(image)
        drawn = values
        if shown is not image:
            drawn = heatmaps.on_image(found.map, shown.shape[0], shown.shape[1], predictor.preprocessing)
        scale = predictor.thresholds.classes[class_name].heatmap
        mask = np.nan_to_num(values, nan=-np.inf) > predictor.thresholds.pixel[class_name]
        name = self._free_name(path)
        places = {kind: self._request.output / f"{kind}s" / f"{name}.png" for kind in PICTURES}
        files.write_atomic(places["heatmap"], heatmaps.png(heatmaps.overlay(shown, drawn, scale)))
        files.write_atomic(places["mask"], heatmaps.png(mask))
        return {kind: str(place.relative_to(self._request.output)) for kind, place in places.items()}

    def _free_name(self, path: Path) -> str:
        """The image's name, cut where no file may have it, with a number if another image has it already."""
        stem = path.stem.encode()[:_LONGEST_NAME].decode(errors="ignore")
        name, number = stem, 1
        while name in self._names:
            number += 1
            name = f"{stem}-{number}"
        self._names.add(name)
        return name


def _files(given: Sequence[str], own: Sequence[Path]) -> Iterator[Path]:
    """Files, the images below folders, and what globs match, each once, in the order given.

    What an earlier call has drawn into the folders `own` is left out, unless it is named itself.
    """
    from meds.core.image_files import check_name, list_images, one_line

    drawn = [folder.resolve() for folder in own]

    def is_drawn(path: Path) -> bool:
        return any(path.resolve().is_relative_to(folder) for folder in drawn)

    seen: set[Path] = set()
    for text in given:
        path = Path(text)
        try:
            if path.is_dir():
                found = [file for file in list_images(path, recursive=True) if not is_drawn(file)]
            elif any(sign in text for sign in "*?[") and not path.exists():
                anchor = Path(path.anchor) if path.anchor else Path()
                matched = anchor.glob(str(path.relative_to(path.anchor)))
                found = sorted(file for file in matched if file.is_file() and not is_drawn(file))
            else:
                found = [path]
        except (OSError, ValueError) as error:
            raise UserError(f"{one_line(text)}: this names no images ({error}).") from None
        for file in found:
            check_name(file)
            if file not in seen:
                seen.add(file)
                yield file


def _class_of(path: Path, given: str | None, names: Sequence[str]) -> str:
    if given is not None:
        if given not in names:
            raise UserError(f"--class {given}: the run knows {', '.join(names)}.")
        return given
    if len(names) == 1:
        return names[0]
    # Without following links: a folder's name here is what counts.
    for part in reversed(Path(os.path.abspath(path)).parent.parts):  # noqa: PTH100
        if part in names:
            return part
    raise UserError(
        f"{path}: the run knows {len(names)} classes ({', '.join(names)}) and no folder of this path is called like "
        "one; give --class."
    )
