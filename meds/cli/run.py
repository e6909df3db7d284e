"""`meds run`: runs a spec and prints its results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from meds.cli.console import ConsoleReporter, console, duration, say_heading
from meds.cli.continuing import common_options, told_how_to_continue
from meds.cli.results import show_metrics, show_noise


def run_spec(
    spec_path: Path, sets: Sequence[str], runs_dir: Path, first: str | None, last: str | None, force: bool
) -> None:
    """Run a spec in `runs_dir/<name>`; a failure prints the command that continues."""
    import time

    started = time.monotonic()
    from meds.core.registry import registry
    from meds.core.spec import load_spec

    spec = load_spec(spec_path, registry(), sets)
    span = [word for option, stage in (("--from", first), ("--until", last)) if stage for word in (option, stage)]
    again = ["run", str(spec_path), *common_options(sets, runs_dir), *span, *["--force"] * force]
    from meds.core.pipeline import Pipeline
    from meds.core.runner import Runner, RunRequest

    directory = runs_dir / spec.name
    reporter = ConsoleReporter()
    pipeline = Pipeline(spec, registry(), reporter=reporter)
    request = RunRequest(directory, first, last, force)
    say_heading(spec.name, f" on {pipeline.runtime.describe()}, in {directory}")
    show_noise(pipeline.data.noise)
    # A mistake that is found until here the same command would find again.
    runner = Runner(pipeline, request, reporter)
    with told_how_to_continue(again):
        metrics = runner.run()
    if metrics is not None:
        show_metrics(metrics)
        written = [name for name in ("metrics.json", "predictions.csv", "ranking.csv") if (directory / name).is_file()]
        console.print(f"Written to {directory}: {', '.join(written)}", soft_wrap=True)
    console.print(f"Done in {duration(time.monotonic() - started)}.")
