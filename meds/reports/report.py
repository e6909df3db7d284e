"""The report of one run, or of several side by side, as one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from meds.core.finished_run import FinishedRun
from meds.core.reporter import Reporter, SilentReporter
from meds.reports.one_run import report_of, steps
from meds.reports.page import plural, write_page
from meds.reports.several_runs import compare_runs

# A run in full is about half a megabyte and some pages of print.
MOST_DETAILED_RUNS = 4


def write_report(runs: Sequence[FinishedRun], path: Path, reporter: Reporter | None = None) -> None:
    """Write the page: each run in full, up to four of them; several are compared first.

    Raises:
        UserError: the artifacts of a run that is shown in full are gone from the store.
    """
    detailed = runs if len(runs) <= MOST_DETAILED_RUNS else []
    teller = reporter or SilentReporter()
    with teller.bar("report", sum(steps(run) for run in detailed)) as bar:
        full = [report_of(run, f"run-{place}", bar) for place, run in enumerate(detailed, start=1)]
    for sentence in (one.lost for one in full if one.lost):
        teller.say(sentence)
    write_page(
        "report.html",
        path,
        title=runs[0].state["name"] if len(runs) == 1 else plural(len(runs), "run"),
        comparison=compare_runs(runs) if len(runs) > 1 else None,
        runs=full,
        detailed=MOST_DETAILED_RUNS,
    )
