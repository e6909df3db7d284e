"""The scores of the training images before and after training, and what was selected, from a run's stored files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meds.core.finished_run import FinishedRun
from meds.core.metrics import ranking_metrics
from meds.core.selection import robust_maximum
from meds.reports.charts import ScorePanel, SelectionCourse
from meds.reports.opened import table

Floats = npt.NDArray[np.float64]
DISTILLED, AFTER = "Distilled student", "After training"


@dataclass(frozen=True)
class StoredScores:
    """Scores [n] of all training images at one point of a run, in the order of the data."""

    title: str
    scores: Floats


def training_scores(run: FinishedRun) -> list[StoredScores]:
    """The scores that are stored: the memory's, the distilled student's where the selection kept them, the last ones.

    An image's score is the mean of its highest patch scores, of as many as the selection takes (`percent_of_patches`).
    The last ones are of the student's own maps, which for HVQ are another measure than the first ones, and so they are
    for every student of several groups with `distance: euclidean`.

    Raises:
        UserError: an artifact is gone from the store.
    """
    found = []
    last, robust = run.scoring_block.name, run.evaluation.info.get("robust_maximum", {})
    for row in run.state["stages"]:
        if row["name"] == last:
            break
        artifact = run.artifact(row["name"])
        if artifact.kind == "memory-scores":
            found.append(_scores("Memory", robust_maximum(artifact.tensors("scores")["maps"], **robust).numpy()))
    student = run.artifact(last)
    # A selection that starts from the memory's scores has shown them already.
    from_student = getattr(run.scoring_block.options, "criterion", "distilled") == "distilled"
    if from_student and "start.safetensors" in student.manifest["files"]:
        found.append(_scores(DISTILLED, student.tensors("start")["scores"].numpy()))
    end = "Memory" if student.kind == "memory-scores" else AFTER
    scores = run.evaluation.tensors("scores")
    # Older versions ranked by the scorer alone.
    return [*found, _scores(end, scores.get("scorer", scores["ranking"]).numpy())]


def percent_of_patches(run: FinishedRun) -> float:
    """Percent of an image's patches, the highest, whose mean is its score; older versions took 1 whatever was asked."""
    return float(run.evaluation.info.get("robust_maximum", {}).get("percent", 1))


def _scores(title: str, values: npt.NDArray[np.float32]) -> StoredScores:
    return StoredScores(title, values.astype(np.float64))


def panels(run: FinishedRun, points: list[StoredScores], class_index: int) -> list[ScorePanel]:
    """The points of a run as histograms of one class; known defects apart, with the AUROC that divides them."""
    members = np.array([sample.class_index == class_index for sample in run.data.train])
    injected = np.array([sample.injected for sample in run.data.train])[members]
    found = []
    for point in points:
        scores = point.scores[members]
        auroc = ranking_metrics(scores, injected)["auroc"]
        title = point.title if auroc is None else f"{point.title}: AUROC {100 * auroc:.1f} %"
        found.append(ScorePanel(title, scores[~injected], scores[injected]))
    return found


def selection_course(run: FinishedRun, class_name: str) -> SelectionCourse | None:
    """What was selected of a class at each epoch; None if the run selects nothing."""
    rows = [row for row in table(run, "selection.csv") if row["class"] == class_name]
    if not rows:
        return None
    columns = {key: np.array([float(row[key]) for row in rows]) for key in ("iteration", "selected", "threshold")}
    defects = sum(sample.injected for sample in run.data.train if sample.record.class_name == class_name)
    known = np.array([float(row["injected_selected"]) for row in rows]) if defects else None
    return SelectionCourse(**columns, total=int(rows[0]["total"]), selected_defects=known, defects=defects or None)
