"""`meds report`: one page about a run, or about several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from meds.cli.console import ConsoleReporter, console
from meds.cli.output import a_file


def report_runs(runs: Sequence[Path], output: Path | None) -> None:
    """Write the page and say where it is."""
    from meds.core.finished_run import FinishedRun
    from meds.reports.report import write_report

    places = list({path.resolve(): path for path in runs}.values())
    path = a_file(output or (places[0] if len(places) == 1 else Path()) / "report.html")
    write_report([FinishedRun(place) for place in places], path, ConsoleReporter())
    console.print(f"Written to {path}.", soft_wrap=True)
