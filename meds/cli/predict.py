"""`meds predict`: scores new images with a finished run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from meds.cli.console import ConsoleReporter, console
from meds.core.errors import DataError, UserError
from meds.core.image_files import printable

if TYPE_CHECKING:
    from meds.core.predict import AnyPredictor
    from meds.core.prediction_files import PredictionFiles


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
        UserError: no image is given, a class is unknown, the threshold is given twice, files of the user would be
            overwritten, or (after all others are done) files were unreadable.
    """
    if request.threshold is not None and request.false_alarm_rate is not None:
        raise UserError("--threshold and --false-alarm-rate both set the threshold; give one of them.")
    from meds.core.new_images import class_of, find_images
    from meds.core.prediction_folder import check_output

    given = find_images(request.images)
    check_output(request.output, request.heatmaps, given)
    predictor = _predictor(request)
    missing = dict.fromkeys(path for path in given if not path.exists())
    paths = [path for path in given if path not in missing]
    failures = [f"{printable(path)}: there is no such file." for path in missing]
    if not paths:
        raise UserError("\n".join(failures))
    images = [(path, class_of(path, request.class_name, predictor.class_names)) for path in paths]
    _predict(request, predictor, images, failures)
    if failures:
        raise DataError("\n".join([*failures, f"{len(failures)} of {len(given)} images could not be read."]))


def _predictor(request: PredictRequest) -> AnyPredictor:
    """Of a run directory, or of a file that `meds export` wrote, with the threshold that is asked for."""
    predictor: AnyPredictor
    if request.run.is_file():
        from meds.export.exported import open_exported

        predictor = open_exported(request.run)
    else:
        from meds.core.finished_run import FinishedRun
        from meds.core.predict import Predictor

        predictor = Predictor(FinishedRun(request.run))
    if request.threshold is not None:
        predictor.thresholds.set_image(request.threshold)
    if request.false_alarm_rate is not None:
        predictor.thresholds.set_false_alarm_rate(request.false_alarm_rate)
    return predictor


def _predict(
    request: PredictRequest, predictor: AnyPredictor, images: Sequence[tuple[Path, str]], failures: list[str]
) -> None:
    from meds.core.files import full_disk_is_a_user_error
    from meds.core.predict import BATCH, score_files
    from meds.core.prediction_files import PredictionFiles
    from meds.core.reporter import SilentReporter

    reporter = SilentReporter() if request.as_json else ConsoleReporter()
    with (
        full_disk_is_a_user_error(request.output),
        PredictionFiles(request.output, predictor, request.heatmaps) as written,
        reporter.bar("predict", len(images)) as bar,
    ):
        if written.former is not None:
            _say_former(written.former, request.as_json)
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            for scored in score_files(predictor, batch, failures):
                _say_image(written.write(scored), request.as_json)
            bar.advance(len(batch))
    if not request.as_json:
        _say_end(request, written)


def _say_former(place: Path, as_json: bool) -> None:
    text = f"What the call before wrote there is now in {printable(place)}."
    if as_json:
        # Where the lines for another program are not.
        typer.echo(text, err=True)
    else:
        console.print(text, soft_wrap=True)


def _say_image(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(row, ensure_ascii=False), flush=True)  # noqa: T201 - lines for another program
    else:
        console.print(f"{row['decision']:<9}  {row['score']:.4f}  {printable(Path(row['path']))}", soft_wrap=True)


def _say_end(request: PredictRequest, written: PredictionFiles) -> None:
    console.print(
        f"{written.anomalous} of {written.count} images are anomalous. Written to {printable(request.output)}: "
        "predictions.csv, predictions.jsonl" + (", heatmaps, masks." if request.heatmaps else "."),
        soft_wrap=True,
    )
