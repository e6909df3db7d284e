"""`meds rank`: the training images that a person should look at, worst first."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from meds.cli.console import console, new_table
from meds.cli.results import percent

SHOWN = 20


def rank_run(run: Path, top: int, output: Path | None, as_json: bool) -> None:
    """Write the contact sheet and print the top of the ranking and how far down one should look."""
    from meds.core.finished_run import FinishedRun
    from meds.reports.ranking import read_ranking, write_sheet

    finished = FinishedRun(run)
    ranking = read_ranking(finished)
    path = output or run / "ranking.html"
    write_sheet(finished, ranking, path, top)
    expected = ranking.expected
    if as_json:
        found = None if expected is None else {"count": expected.count, "low": expected.low, "high": expected.high}
        content = {"expected_defects": found, "look_down_to_rank": ranking.reach, "figures": ranking.figures}
        typer.echo(json.dumps({**content, "images": ranking.rows[:top], "sheet": str(path)}, ensure_ascii=False))
        return
    table = new_table("rank", "score", "class", "selected", "image", numbers=("rank", "score"))
    for row in ranking.rows[: min(top, SHOWN)]:
        selected = "yes" if row["selected"] == "1" else "no"
        table.add_row(row["rank"], f"{float(row['score']):.4g}", row["class"], selected, row["path"])
    console.print(table)
    if expected is None:
        console.print("Too few images to tell how many of them are defects.")
    else:
        console.print(
            f"About {expected.count:.0f} of {len(ranking.rows)} training images look like defects (between "
            f"{expected.low:.0f} and {expected.high:.0f}, 90 % confidence)"
            + (f"; nine of ten should lie among the first {ranking.reach}." if ranking.reach else "."),
            soft_wrap=True,
        )
    for name, figures in ranking.figures.items():
        if figures["auprc"] is not None:
            depth = percent(figures["inspection_depth"])
            console.print(f"{name}: AUPRC {percent(figures['auprc'])} %, inspection depth {depth} %")
    console.print(f"Written to {path}.", soft_wrap=True, markup=False)
