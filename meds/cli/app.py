"""The Typer application: one file a command, imported only when the command is used."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from meds import __version__
from meds.cli.plugins_app import plugins_app

app = typer.Typer(
    name="meds",
    help="Train defect detectors on image folders that contain unknown defects.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(plugins_app, name="plugins")

SpecPath = Annotated[Path, typer.Argument(metavar="SPEC", help="A pipeline spec (YAML).")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the spec.")]
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder that holds the run directories.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class ExportFormat(StrEnum):
    """The file formats of `meds export`."""

    onnx = "onnx"
    openvino = "openvino"
    torch = "torch"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"meds {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train defect detectors on image folders that contain unknown defects."""


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of images.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The spec to write; default: the folder's name.")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            help="efficientnet-lite0, with RD: the quicker; dinov2-small, with Dinomaly: for textures. Default: the "
            "first of them that is installed.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
) -> None:
    """Look at a folder of images and write a spec for it, with comments."""
    from meds.cli.init import write_spec

    write_spec(folder, output, backbone, force)


@app.command()
def run(
    spec: SpecPath,
    sets: Sets = None,
    runs_dir: RunsDir = Path("runs"),
    first: Annotated[str | None, typer.Option("--from", metavar="STAGE", help="Start at this stage.")] = None,
    last: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")] = None,
    decisions: Annotated[
        Path | None,
        typer.Option("--decisions", metavar="FILE", help="Decisions of `meds review`: defects leave, normals stay."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compute the stages again even if they are done.")] = False,
) -> None:
    """Run a spec; run it again to continue after an interruption."""
    from meds.cli.run import run_spec

    overrides = list(sets or [])
    if decisions:
        overrides.append(f"decisions.file={json.dumps(str(decisions), ensure_ascii=False)}")
    run_spec(spec, overrides, runs_dir, first, last, force)


@app.command()
def plan(
    spec: SpecPath,
    sets: Sets = None,
    as_json: AsJson = False,
    without_data: Annotated[
        bool, typer.Option("--without-data", help="Check the spec and list its stages; needs no images and no weights.")
    ] = False,
) -> None:
    """Show what a spec would run, what is done, and what it needs."""
    from meds.cli.plan import show_plan, show_stages

    if without_data:
        show_stages(spec, sets or [], as_json)
    else:
        show_plan(spec, sets or [], as_json)


@app.command()
def status(run: RunPath, as_json: AsJson = False) -> None:
    """Show how far a run is, and its results."""
    from meds.cli.status import show_status

    show_status(run, as_json)


@app.command()
def evaluate(run: RunPath) -> None:
    """Evaluate a run again from its stored student and print the results."""
    from meds.cli.evaluate import evaluate_run

    evaluate_run(run)


@app.command()
def compare(
    specs: Annotated[list[Path], typer.Argument(metavar="SPEC...", help="Pipeline specs (YAML).")],
    ratios: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Noise ratios; without it the spec's own noise.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Seeds, of the noise too; without it the spec's own.")
    ] = None,
    methods: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Some of plain, memory, distilled, full; without it all.")
    ] = None,
    sets: Sets = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Run the parts of MeDS on a spec, or several specs, and print one table of results."""
    from meds.cli.compare import compare_specs

    compare_specs(specs, sets or [], ratios, seeds, methods, runs_dir, as_json)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, or an exported file.")],
    images: Annotated[list[str], typer.Argument(metavar="IMAGES...", help="Image files, folders or globs.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for tables and pictures.")] = Path(
        "predictions"
    ),
    class_name: Annotated[
        str | None, typer.Option("--class", help="Class of the images; default: the folder's name, or the only class.")
    ] = None,
    threshold: Annotated[float | None, typer.Option("--threshold", help="Hold all images against this score.")] = None,
    false_alarm_rate: Annotated[
        float | None, typer.Option("--false-alarm-rate", help="Choose the threshold again, for this share of alarms.")
    ] = None,
    heatmaps: Annotated[bool, typer.Option("--heatmaps/--no-heatmaps", help="Write heatmaps and masks.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Score new images with a finished run: scores, decisions, heatmaps, masks."""
    from meds.cli.predict import PredictRequest, predict_images

    request = PredictRequest(run, tuple(images), output, class_name, threshold, false_alarm_rate, heatmaps, as_json)
    predict_images(request)


@app.command()
def export(
    run: RunPath,
    kind: Annotated[ExportFormat, typer.Option("--format", help="onnx, openvino or torch.")] = ExportFormat.onnx,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file to write; default: the name of the run.",
        ),
    ] = None,
    class_name: Annotated[str | None, typer.Option("--class", help="Class of the images, if the run has more.")] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Largest difference of scores, as a share of the threshold.")
    ] = 0.02,
    images: Annotated[int, typer.Option("--images", min=1, help="Number of images to compare on.")] = 32,
) -> None:
    """Write a run's detector as one file, from pixels to score, and check it against the run."""
    from meds.cli.export import export_run

    export_run(run, kind.value, output, class_name, tolerance, images)


@app.command()
def rank(
    run: RunPath,
    top: Annotated[int, typer.Option("--top", min=1, help="Number of images on the page and in --json.")] = 100,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The page; default: RUN/ranking.html.")] = None,
    as_json: AsJson = False,
) -> None:
    """The training images to look at, worst first: a table, a contact sheet, and how far down to look."""
    from meds.cli.rank import rank_run

    rank_run(run, top, output, as_json)


@app.command()
def review(
    run: RunPath,
    decisions: Annotated[
        Path | None,
        typer.Option(
            "--decisions",
            metavar="FILE",
            help="Table to add to; default: the one that the run was made with, else RUN/decisions.csv.",
        ),
    ] = None,
    who: Annotated[str | None, typer.Option("--who", metavar="NAME", help="Reviewer; default: the login name.")] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; default: any that is free.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
) -> None:
    """Judge the suspicious training images of a run in a browser, with two keys."""
    from meds.cli.review import review_run

    review_run(run, decisions, who, port, browser)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The page; default: RUN/report.html, or report.html here for several."),
    ] = None,
) -> None:
    """One page about a run, or about several side by side: what was run, results, curves, images, cost."""
    from meds.cli.report import report_runs

    report_runs(runs, output)


@app.command()
def schema() -> None:
    """Print the JSON schema of a spec, installed plugins included."""
    from meds.cli.schema import print_schema

    print_schema()


@app.command()
def store(
    remove_unused: Annotated[bool, typer.Option("--remove-unused", help="Remove what no run uses.")] = False,
    forget_missing: Annotated[
        bool, typer.Option("--forget-missing", help="Keep nothing for runs whose directories are gone.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List stored artifacts and features, their size and which runs use them."""
    from meds.cli.store import show_store

    show_store(remove_unused, forget_missing, as_json)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check the installation: versions, device, precision, disk, weights."""
    from meds.cli.doctor import show_doctor

    show_doctor(as_json)
