"""The contact sheet of a run's training images, most suspicious first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meds.core.contamination_estimate import ContaminationEstimate, Expected, estimate_contamination
from meds.core.finished_run import FinishedRun
from meds.core.reporter import Reporter, SilentReporter
from meds.reports.opened import table, unreadable_spec
from meds.reports.page import common_folder, write_page
from meds.reports.pictures import ReportPictures

# Beyond that a page no longer opens quickly; ranking.csv has them all.
MOST_TABLE_ROWS = 2000


@dataclass(frozen=True)
class ClassRanking:
    """One class: its training images, how many seem to be defects and how many are known to be, and the figures.

    `expected` is None where too few images are there to tell. `figures` has `auroc`, `auprc` and `inspection_depth`,
    None where no image is known to be a defect.
    """

    name: str
    images: int
    expected: Expected | None
    known: int
    figures: Mapping[str, float | None]


@dataclass(frozen=True)
class Ranking:
    """The rows of ranking.csv and what is expected of them, in all and by class.

    `reach` is the rank down to which nine of ten expected defects lie, 0 if none is expected; `known` is the number
    of training images that are known to be defects and `known_within_reach` how many of them lie that far up.
    `selects` says whether the run chose what it trained on.
    """

    rows: list[dict[str, str]]
    expected: Expected | None
    reach: int
    known: int
    known_within_reach: int
    classes: list[ClassRanking]
    selects: bool


def read_ranking(run: FinishedRun) -> Ranking:
    """The ranking of a finished run, from its files alone."""
    rows = table(run, "ranking.csv")
    names = run.data.class_names
    labels = np.array([names.index(row["class"]) for row in rows])
    known = np.array([row["injected"] == "1" for row in rows], dtype=bool)
    estimate = estimate_contamination([float(row["score"]) for row in rows], labels)
    found = np.cumsum(estimate.probabilities)
    reach = int(np.searchsorted(found, 0.9 * found[-1])) + 1 if len(found) and found[-1] > 0.5 else 0
    return Ranking(
        rows,
        estimate.expected(),
        reach,
        int(known.sum()),
        int(known[:reach].sum()),
        [_of_class(run, estimate, name, labels == index, known) for index, name in enumerate(names)],
        bool(table(run, "selection.csv")),
    )


def _of_class(run: FinishedRun, estimate: ContaminationEstimate, name: str, members: Any, known: Any) -> ClassRanking:
    figures = run.metrics["ranking"]["classes"][name]
    return ClassRanking(name, int(members.sum()), estimate.expected(members), int(known[members].sum()), figures)


def write_sheet(run: FinishedRun, ranking: Ranking, path: Path, top: int, reporter: Reporter | None = None) -> None:
    """Write the page: pictures of the first `top` images, the others as a table.

    Raises:
        UserError: the run's evaluation is gone from the store.
    """
    position = {sample.record.path: i for i, sample in enumerate(run.data.train)}
    closed = unreadable_spec(run)
    pictures = None if closed else ReportPictures(run)
    folder = common_folder([row["path"] for row in ranking.rows])
    cards: list[dict[str, Any]] = []
    with (reporter or SilentReporter()).bar("images", len(ranking.rows[:top])) as bar:
        for row in ranking.rows[:top]:
            cards.append({**row, "pair": pictures.pair("train", position[row["path"]]) if pictures else None})
            bar.advance()
    lost = pictures.lost() if pictures else None
    if lost:
        (reporter or SilentReporter()).say(lost)
    write_page(
        "ranking.html",
        path,
        title=run.state["name"],
        ranking=ranking,
        cards=cards,
        rest=ranking.rows[top : top + MOST_TABLE_ROWS],
        left_out=max(0, len(ranking.rows) - top - MOST_TABLE_ROWS),
        scales={name: row["heatmap"] for name, row in run.metrics.get("calibration", {}).items()},
        closed=closed,
        folder=folder,
    )
