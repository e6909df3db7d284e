"""The contact sheet of a run's training images, most suspicious first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meds.core.contamination_estimate import Expected, estimate_contamination
from meds.core.finished_run import FinishedRun
from meds.reports.page import write_page
from meds.reports.pictures import Pictures


@dataclass(frozen=True)
class Ranking:
    """The rows of ranking.csv, what is expected of them, and the figures where the truth is known.

    `expected` is None where too few images are there to tell. `reach` is the rank down to which nine of ten expected
    defects lie.
    """

    rows: list[dict[str, str]]
    expected: Expected | None
    reach: int
    figures: Mapping[str, Mapping[str, float | None]]

    @property
    def truth_is_known(self) -> bool:
        """Whether some training images are known to be defects."""
        return any(row["auprc"] is not None for row in self.figures.values())


def read_ranking(run: FinishedRun) -> Ranking:
    """The ranking of a finished run."""
    rows = run.table("ranking.csv")
    names = run.data.class_names
    estimate = estimate_contamination(
        [float(row["score"]) for row in rows], [names.index(row["class"]) for row in rows], run.spec.seed
    )
    found = np.cumsum(estimate.probabilities)
    reach = int(np.searchsorted(found, 0.9 * found[-1])) + 1 if len(found) and found[-1] > 0.5 else 0
    return Ranking(rows, estimate.expected(), reach, run.metrics["ranking"]["classes"])


def write_sheet(run: FinishedRun, ranking: Ranking, path: Path, top: int) -> None:
    """Write the page: pictures of the first `top` images, the others as a table."""
    position = {sample.record.path: i for i, sample in enumerate(run.data.train)}
    pictures = Pictures(run)
    cards: list[dict[str, Any]] = [
        {**row, "pair": pictures.pair("train", position[row["path"]]), "name": Path(row["path"]).name}
        for row in ranking.rows[:top]
    ]
    scales = {name: row["heatmap"] for name, row in run.metrics["calibration"].items()}
    write_page(
        "ranking.html",
        path,
        title=run.spec.name,
        ranking=ranking,
        cards=cards,
        rest=ranking.rows[top:],
        scales=scales,
        classes=run.data.class_names,
    )
