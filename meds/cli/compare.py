"""`meds compare`: the parts of MeDS on a spec, or several specs, side by side in one table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from meds.cli.console import ConsoleReporter, console, duration, new_table
from meds.cli.continuing import common_options, told_how_to_continue
from meds.cli.results import TITLES
from meds.core.errors import UserError
from meds.core.units import percent

if TYPE_CHECKING:
    from meds.comparison.cases import Case
    from meds.comparison.rows import Row

ValueT = TypeVar("ValueT", int, float)

COLUMNS = {
    "image_auroc": TITLES["image_auroc"],
    "worst": "worst\nseed",
    "pixel_auroc": TITLES["pixel_auroc"],
    "pixel_aupro": TITLES["pixel_aupro"],
    "ranking_auprc": "ranking\nAUPRC",
    "injected_selected": "injected\nselected",
}


def compare_specs(
    specs: Sequence[Path],
    sets: Sequence[str],
    ratios: str | None,
    seeds: str | None,
    methods: str | None,
    runs_dir: Path,
    as_json: bool,
) -> None:
    """Run what is missing and print the table, or all rows as JSON."""
    from meds.comparison.cases import cases
    from meds.core.spec_source import read_spec

    wanted = cases(
        [read_spec(path, sets) for path in specs],
        _numbers(ratios, "--ratios", float),
        _numbers(seeds, "--seeds", int),
        None if methods is None else [method.strip() for method in methods.split(",")],
    )
    chosen = (("--ratios", ratios), ("--seeds", seeds), ("--methods", methods))
    again = [word for option, value in chosen if value is not None for word in (option, value)]
    again = ["compare", *map(str, specs), *again, *common_options(sets, runs_dir), *["--json"] * as_json]
    with told_how_to_continue(again):
        rows = _run(wanted, runs_dir, quiet=as_json)
    if as_json:
        typer.echo(json.dumps([row.as_dict() for row in rows], indent=2, ensure_ascii=False))
    else:
        show_rows(rows)


def _run(wanted: Sequence[Case], runs_dir: Path, quiet: bool) -> list[Row]:
    from meds.comparison.cases import spec_of
    from meds.comparison.rows import check_case, run_case
    from meds.core.records import KnownDataSets
    from meds.core.registry import registry
    from meds.core.reporter import SilentReporter

    reporter = SilentReporter() if quiet else ConsoleReporter()
    rows, known = [], KnownDataSets()
    # A mistake in the last case is told before the first one runs.
    for case in wanted:
        spec_of(case, registry())
    kinds = _one_of_each_kind(wanted)
    if not quiet and len(wanted) > 1:
        console.print(
            f"Checking {len(kinds)} kinds of runs before the first." if len(kinds) > 1 else "Checking the runs."
        )
    for case in kinds:
        check_case(case, registry(), runs_dir, reporter, known)
    for number, case in enumerate(wanted, start=1):
        if not quiet:
            console.print(f"{number} of {len(wanted)}: {runs_dir / case.name}", soft_wrap=True)
        row = run_case(case, registry(), runs_dir, reporter, known)
        rows.append(row)
        if not quiet:
            console.print(f"Image AUROC {percent(row.figures.get('image_auroc'))}, {duration(row.seconds)}.")
    return rows


def _one_of_each_kind(wanted: Sequence[Case]) -> list[Case]:
    """One case of those that differ in the seed alone, which sizes hardly depend on."""
    firsts = {(str(case.source.data["name"]), case.method, case.ratio): case for case in reversed(wanted)}
    return list(reversed(firsts.values()))


def show_rows(rows: Sequence[Row]) -> None:
    """Print the means over seeds, in percent; columns that no row has are left out."""
    from meds.comparison.caveats import caveats

    groups: dict[tuple[float, str, str], list[Row]] = {}
    for row in rows:
        # The written spec's own noise has no ratio to sort by; it stands alone then.
        groups.setdefault((row.ratio or 0.0, row.spec, row.method), []).append(row)
    several = len({row.spec for row in rows}) > 1
    cells = {key: _means(group) for key, group in groups.items()}
    shown = [key for key in COLUMNS if any(row[key] is not None for row in cells.values())]
    titles = [COLUMNS[key] for key in shown]
    labels = ["noise", *(["spec"] if several else []), "method"]
    seeds = max(len({row.seed for row in group}) for group in groups.values())
    over = f", means over {seeds} seeds" if seeds > 1 else ""
    table = new_table(*labels, *titles, title=f"Comparison (percent{over})", numbers=["noise", *titles])
    for key in sorted(groups, key=lambda key: key[0]):
        group, figures = groups[key], cells[key]
        noise = statistics.mean(row.noise or 0.0 for row in group)
        name = [group[0].spec] if several else []
        table.add_row(percent(noise), *name, _title(group[0]), *(percent(figures[key]) for key in shown))
    console.print(table)
    for sentence in caveats(rows):
        console.print(sentence, soft_wrap=True)


def _title(row: Row) -> str:
    from meds.comparison.methods import METHODS

    return METHODS.get(row.method, row.student)


def _means(group: Sequence[Row]) -> dict[str, float | None]:
    """Means over the seeds; `worst` is the lowest image AUROC of several seeds."""
    from meds.comparison.measured import ends, mean_figures

    return {**mean_figures(group, COLUMNS), "worst": ends(group)[0] if len(group) > 1 else None}


def _numbers(text: str | None, option: str, number: Callable[[str], ValueT]) -> list[ValueT] | None:
    """Numbers of at least 0, separated by commas; UserError if they are something else."""
    if text is None:
        return None
    try:
        values = [number(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 <= value < float("inf") for value in values):
        example = "0,1,2" if number is int else "0,0.1,0.4"
        raise UserError(f"{option} {text}: give numbers of at least 0 separated by commas, for example {example}.")
    return values
