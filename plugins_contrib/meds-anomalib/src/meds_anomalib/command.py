"""The command `meds-anomalib`: hands what a meds run selected to anomalib."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from meds.api import MedsError
from meds_anomalib.export import FOLDER_FILE, SAMPLES_FILE, Export, plan_export, write_export
from meds_anomalib.run_files import read_run

app = typer.Typer(
    name="meds-anomalib",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _main() -> None:
    """Hand what a meds run selected to anomalib."""


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a finished meds run.")],
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="A new folder for the lists and links.")],
    classes: Annotated[
        list[str] | None, typer.Option("--class", metavar="NAME", help="Only this class; may be given repeatedly.")
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the images instead of linking to them.")] = False,
) -> None:
    """Write the selected training images and the test images as data for anomalib's `Folder`."""
    found = read_run(run)
    planned = plan_export(found.of_classes(classes) if classes else found)
    write_export(planned, to, copy)
    for line in report(planned, to):
        typer.echo(line)


def report(done: Export, folder: Path) -> list[str]:
    """What an export holds, in sentences: numbers selected and left out, injected defects among both, and the rest."""
    lines = [*_selection(done), *_test(done)]
    lines.append(
        f"Written to {folder}: {FOLDER_FILE} for anomalib's Folder, {SAMPLES_FILE} for its Tabular, both lists."
    )
    lines.append(f"Use it: anomalib train --model Padim --data {folder / FOLDER_FILE}")
    return lines


def _selection(done: Export) -> list[str]:
    known = any(image.injected for image in (*done.selected, *done.left_out))
    totals, chosen, wrong = Counter[str](), Counter[str](), Counter[str]()
    for image in (*done.selected, *done.left_out):
        totals[image.class_name] += 1
        chosen[image.class_name] += image.selected
        wrong[image.class_name] += image.injected
    lines = []
    for name in sorted(totals):
        left = totals[name] - chosen[name]
        line = f"{name}: {chosen[name]} of {totals[name]} training images selected, {left} left out"
        if known:
            stayed = sum(image.injected for image in done.selected if image.class_name == name)
            line += f"; of {wrong[name]} injected defects {stayed} are still among the selected"
        lines.append(f"{line}.")
    if not done.left_out:
        lines.append("The run left nothing out: it has no stage that selects, or found nothing suspicious.")
    return lines


def _test(done: Export) -> list[str]:
    if not (done.normal or done.defective):
        lines = ["No labelled test images: anomalib keeps a tenth of the selected images for validation."]
    else:
        masks = f"{len(done.masks)} with masks" if done.masks else "without masks"
        lines = [f"Test images: {len(done.normal)} normal, {len(done.defective)} defective ({masks})."]
    if done.defective and not done.normal:
        lines.append("No normal test images: anomalib takes a fifth of the selected training images for its test.")
    if done.without_mask and done.without_mask < len(done.defective):
        lines.append(
            f"{done.without_mask} defective images have no mask, and Folder wants all or none: masks left out."
        )
    if done.unlabelled:
        lines.append(f"{done.unlabelled} test images have no label and are left out.")
    if done.in_both:
        lines.append(f"{done.in_both} test images are among the selected training images too.")
    return lines


def main() -> None:
    """Entry point of the command; exits with 0 (done), 2 (the user's mistake) or 1 (anything else)."""
    try:
        app()
    except MedsError as error:
        if os.environ.get("MEDS_TRACEBACK"):
            raise
        sys.stderr.write(f"meds-anomalib: {error}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        if os.environ.get("MEDS_TRACEBACK"):
            raise
        sys.stderr.write(f"meds-anomalib: {error.filename} cannot be used ({error.strerror}).\n")
        sys.exit(2)
