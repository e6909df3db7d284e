"""`meds rank`: the training images that a person should look at, worst first."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from meds.cli.console import ConsoleReporter, console, new_table
from meds.cli.output import a_file
from meds.core.units import percent

if TYPE_CHECKING:
    from meds.core.contamination_estimate import Expected
    from meds.reports.ranking import Ranking

SHOWN = 20


def rank_run(run: Path, top: int, output: Path | None, as_json: bool) -> None:
    """Write the contact sheet and print the top of the ranking and how far down one should look."""
    from meds.core.finished_run import FinishedRun
    from meds.reports.ranking import read_ranking, write_sheet

    path = a_file(output or run / "ranking.html")
    finished = FinishedRun(run)
    ranking = read_ranking(finished)
    write_sheet(finished, ranking, path, top, None if as_json else ConsoleReporter())
    if as_json:
        typer.echo(json.dumps({**_as_json(ranking, top), "sheet": str(path)}, ensure_ascii=False))
        return
    _show_top(ranking, min(top, SHOWN))
    for sentence in (_expectation(ranking), *_truth(ranking), f"Written to {path}."):
        console.print(sentence, soft_wrap=True)


def _as_json(ranking: Ranking, top: int) -> dict[str, Any]:
    classes = {
        row.name: {
            "images": row.images,
            "expected_defects": _interval(row.expected),
            "known_defects": row.known,
            **row.figures,
        }
        for row in ranking.classes
    }
    return {
        "expected_defects": _interval(ranking.expected),
        "look_down_to_rank": ranking.reach,
        "known_defects": ranking.known,
        "classes": classes,
        "images": [_typed(row) for row in ranking.rows[:top]],
    }


def _typed(row: Mapping[str, str]) -> dict[str, Any]:
    """A row of ranking.csv with its numbers as numbers; None where it has none."""
    kinds: dict[str, Callable[[str], Any]] = {"rank": int, "score": float, "selected": int, "injected": int}
    return {key: (kinds[key](value) if value else None) if key in kinds else value for key, value in row.items()}


def _interval(expected: Expected | None) -> dict[str, float] | None:
    return None if expected is None else {"count": expected.count, "low": expected.low, "high": expected.high}


def _show_top(ranking: Ranking, shown: int) -> None:
    from meds.reports.page import common_folder

    folder = common_folder([row["path"] for row in ranking.rows])
    several = len(ranking.classes) > 1
    columns = {"rank": True, "score": True, "class": several, "selected": ranking.selects, "image": True}
    table = new_table(*(name for name, wanted in columns.items() if wanted), numbers=("rank", "score"))
    for row in ranking.rows[:shown]:
        cells = {
            "rank": row["rank"],
            "score": f"{float(row['score']):.4g}",
            "class": row["class"],
            "selected": "yes" if row["selected"] == "1" else "no",
            "image": row["path"][len(folder) :],
        }
        table.add_row(*(cells[name] for name, wanted in columns.items() if wanted))
    if folder:
        console.print(f"Images below {folder}", soft_wrap=True)
    console.print(table)


def _expectation(ranking: Ranking) -> str:
    expected = ranking.expected
    if expected is None:
        return "There are too few training images to tell how many of them are defects."
    reach = f" Nine of ten of those that stand out lie among the first {ranking.reach}." if ranking.reach else ""
    return (
        f"About {expected.count:.0f} of {len(ranking.rows)} training images stand out as defects would "
        f"({expected.low:.0f} to {expected.high:.0f} if the scores are resampled); defects that score like normal "
        f"images are not counted.{reach}"
    )


def _truth(ranking: Ranking) -> list[str]:
    """What is known of the defects among the training images, a sentence for each class that has some."""
    return [
        f"{row.name}: {row.known} of {row.images} are known defects; AUPRC {percent(row.figures['auprc'])} %, "
        f"inspection depth {percent(row.figures['inspection_depth'])} %."
        for row in ranking.classes
        if row.known
    ]
