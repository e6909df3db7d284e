"""`meds export`: writes a finished run's detector as one file and checks it against the run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import typer

from meds.cli.console import console
from meds.core.errors import UserError


def export_run(
    run: Path,
    kind: Literal["onnx", "openvino", "torch"],
    output: Path | None,
    class_name: str | None,
    tolerance: float,
    images: int,
) -> None:
    """Export, compare on unseen images, and remove the file (exit code 1) if the two do not agree.

    Raises:
        UserError: the run cannot be exported, or a class is unknown or must be chosen.
    """
    from meds.core.finished_run import FinishedRun
    from meds.export import check, formats
    from meds.export.exported import open_exported
    from meds.export.metadata import describe
    from meds.export.network import DetectorNetwork

    formats.need(kind)
    finished = FinishedRun(run)
    chosen = _class(class_name, finished.data.class_names)
    path = output or check.default_path(finished, chosen, formats.SUFFIXES[kind])
    if path.suffix != formats.SUFFIXES[kind]:
        raise UserError(f"--output {path}: a file of the format {kind} ends in {formats.SUFFIXES[kind]}.")
    formats.write(DetectorNetwork(finished, chosen), kind, path, describe(finished, chosen).text)
    samples = check.unseen_samples(finished, chosen, images)
    own = FinishedRun(run)
    try:
        # Opened anew: the network has taken the encoder and student of the other one to float32.
        found = check.compare(own, open_exported(path), chosen, samples)
    except BaseException:
        _remove(path)
        raise
    figures = (
        f"{found.images} images: scores differ by at most {found.worst.gap:.2g} of the threshold "
        f"(allowed: {tolerance:g}), {len(found.flipped)} decisions differ. Largest difference: {found.worst}."
    )
    if found.worst.gap > tolerance or found.flipped:
        _remove(path)
        told = [f"The exported detector does not agree with the run and was removed. {figures}"]
        told += [f"Another decision: {image}." for image in found.flipped[:3]]
        if own.pipeline.runtime.precision != "fp32":
            told.append("The run computes in bf16, the file in float32: run the spec with `--set precision=fp32`.")
        console.print("\n".join(told), soft_wrap=True, markup=False)
        raise typer.Exit(1)
    console.print(f"Checked on {figures}\nWritten to {path}.", soft_wrap=True, markup=False)


def _remove(path: Path) -> None:
    for part in (path, *([path.with_suffix(".bin")] if path.suffix == ".xml" else [])):
        part.unlink(missing_ok=True)


def _class(given: str | None, names: tuple[str, ...]) -> str:
    if given is None and len(names) == 1:
        return names[0]
    if given in names:
        return str(given)
    listed = ", ".join(names)
    if given is None:
        raise UserError(f"The run knows {len(names)} classes ({listed}), and a file holds one: give --class.")
    raise UserError(f"--class {given}: the run knows {listed}.")
