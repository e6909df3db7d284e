"""`meds export`: writes a finished run's detector as one file and checks it against the run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from meds.cli.console import ConsoleReporter, console
from meds.core.errors import UserError

if TYPE_CHECKING:
    from meds.core.data import Sample
    from meds.core.finished_run import FinishedRun
    from meds.core.predict import Prediction
    from meds.export.calibration import FileCalibration


def export_run(
    run: Path,
    kind: Literal["onnx", "openvino", "torch"],
    output: Path | None,
    class_name: str | None,
    tolerance: float,
    images: int,
) -> None:
    """Export, compare on unseen images, and keep the file if the two agree; else exit code 1 and what was there stays.

    Raises:
        UserError: the run cannot be exported, a class is unknown or must be chosen, or the tolerance is no share.
    """
    from meds.core.finished_run import FinishedRun
    from meds.export import check, formats
    from meds.export.calibration import file_calibration
    from meds.export.metadata import describe
    from meds.export.network import DetectorNetwork

    if not 0 <= tolerance < math.inf:
        raise UserError(f"--tolerance {tolerance:g}: give a share of the threshold, 0 or more.")
    formats.need(kind)
    finished = FinishedRun(run)
    chosen = _class(class_name, finished.data.class_names)
    path = output or check.default_path(finished, chosen, formats.SUFFIXES[kind])
    if path.suffix != formats.SUFFIXES[kind]:
        raise UserError(f"--output {path}: a file of the format {kind} ends in {formats.SUFFIXES[kind]}.")
    network, exact = DetectorNetwork(finished, chosen), FinishedRun(run, precision="fp32")
    calibration = file_calibration(exact, chosen, ConsoleReporter())
    samples = check.unseen_samples(exact, chosen, images, calibration)
    with formats.written(network, kind, path, describe(exact, chosen, calibration).text) as part:
        if not _agrees(exact, part, chosen, calibration, samples, tolerance):
            raise typer.Exit(1)
    console.print(f"Written to {path}.", soft_wrap=True)


def _agrees(
    exact: FinishedRun, path: Path, chosen: str, calibration: FileCalibration, samples: list[Sample], tolerance: float
) -> bool:
    """Compare the file with the run in float32, and tell of it; a run in another precision is told of only."""
    from meds.core.predict import Predictor
    from meds.core.thresholds import Thresholds
    from meds.export import check
    from meds.export.exported import open_exported

    own = Predictor(exact)
    own.thresholds = Thresholds({chosen: calibration.threshold})
    of_file = check.predictions(open_exported(path), exact, chosen, samples)
    found = check.difference(samples, check.predictions(own, exact, chosen, samples), of_file)
    agrees = found.worst.gap <= tolerance and not found.flipped
    figures = (
        f"{found.images} images: scores differ by at most {found.worst.gap:.2g} of the threshold "
        f"(allowed: {tolerance:g}), {len(found.flipped)} decisions differ. Largest difference: {found.worst}."
    )
    if agrees:
        told = [f"Checked on {figures}"]
    else:
        told = [f"The exported detector does not agree with the run and is not kept. {figures}"]
        told += [f"Another decision: {image}." for image in found.flipped[:3]]
    if exact.made_in != "fp32":
        told.append(_told_of_precision(exact.path, chosen, samples, of_file))
    console.print("\n".join(told), soft_wrap=True)
    return agrees


def _told_of_precision(run: Path, chosen: str, samples: list[Sample], of_file: list[Prediction]) -> str:
    from meds.core.finished_run import FinishedRun
    from meds.core.predict import Predictor
    from meds.export import check

    as_run = FinishedRun(run)
    own = check.predictions(Predictor(as_run), as_run, chosen, samples)
    found = check.difference(samples, own, of_file)
    return (
        f"The run itself computes in {as_run.pipeline.runtime.precision}, the file in float32, so the file has a "
        f"threshold of its own, {of_file[0].threshold:.6g} (the run's: {own[0].threshold:.6g}). As shares of these "
        f"thresholds, scores differ by at most {found.worst.gap:.2g}, and {len(found.flipped)} of {found.images} "
        "decisions differ."
    )


def _class(given: str | None, names: tuple[str, ...]) -> str:
    if given is None and len(names) == 1:
        return names[0]
    if given in names:
        return str(given)
    listed = ", ".join(names)
    if given is None:
        raise UserError(f"The run knows {len(names)} classes ({listed}), and a file holds one: give --class.")
    raise UserError(f"--class {given}: the run knows {listed}.")
