"""The figures of one class of one run, each with what it shows in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np

from meds.core.finished_run import FinishedRun
from meds.core.units import percent
from meds.reports import charts, results
from meds.reports.figures import PageFigure, page_figure
from meds.reports.opened import table
from meds.reports.page import plural
from meds.reports.ranking import ClassRanking
from meds.reports.training_scores import DISTILLED, StoredScores, panels, percent_of_patches, selection_course


@dataclass
class ClassFigures:
    """The figures of one class; `wide` is as wide as the page. `missing` says in sentences what is not there."""

    name: str
    wide: PageFigure | None = None
    narrow: list[PageFigure] = field(default_factory=list)
    ranking: PageFigure | None = None
    missing: list[str] = field(default_factory=list)


def class_figures(
    run: FinishedRun, key: str, name: str, points: list[StoredScores], ranking: ClassRanking
) -> ClassFigures:
    """Draw what is known of a class; `key` tells its figures from all others of the page."""
    found = ClassFigures(name)
    if points:
        found.wide = _before_and_after(run, key, name, points, ranking)
        stages = [row["type"] for row in run.state["stages"]]
        if "distill" in stages[:-2] and DISTILLED not in [point.title for point in points]:
            found.missing.append("The scores of the distilled student, before it was trained on, are not stored.")
    labelled = results.labelled_scores(run, name)
    if len(labelled.normals) or len(labelled.defects):
        found.narrow.append(_test_scores(run, key, name, labelled))
    else:
        found.missing.append("There are no labelled test images, so there is no histogram of their scores.")
    course = selection_course(run, name)
    if course is None:
        found.missing.append("No stage of this run selects images.")
    else:
        found.narrow.append(_selection(key, name, course))
    if ranking.figures["auprc"] is not None:
        found.ranking = _ranking_curve(run, key, name, ranking)
    return found


def _before_and_after(
    run: FinishedRun, key: str, name: str, points: list[StoredScores], ranking: ClassRanking
) -> PageFigure:
    drawn = panels(run, points, run.data.class_names.index(name))
    said = "; ".join(f"{panel.title}, median of the others {_median(panel.others)}" for panel in drawn)
    if ranking.known:
        said += f", of the known defects {_median(drawn[-1].defects)} at the end"
    names = ("images not known to be defects" if ranking.known else "training images", "known defects")
    return page_figure(
        partial(charts.draw_scores, panels=drawn, names=names),
        f"{key}-training",
        f"Histograms of the scores of the training images, class {name}",
        f"{plural(ranking.images, 'training image')}, {ranking.known} of them known defects. {said}.",
        f"Scores of the training images: the mean of the highest {percent_of_patches(run):g} % of patch scores.",
        height=2.5,
        wide=True,
    )


def _median(values: charts.Floats) -> str:
    return f"{np.median(values):.4g}" if len(values) else "unknown"


def _test_scores(run: FinishedRun, key: str, name: str, labelled: results.LabelledScores) -> PageFigure:
    threshold = run.metrics["thresholds"][name]
    came_to = results.outcomes(run, name)
    panel = charts.ScorePanel("Test images", labelled.normals, labelled.defects, threshold)
    said = (
        f"{came_to.false_alarms} of {came_to.normals} normal images and {came_to.found} of {came_to.defects} defective "
        f"ones lie above the threshold of {threshold:.4g}."
    )
    return page_figure(
        partial(charts.draw_scores, panels=[panel], names=("normal images", "defective images")),
        f"{key}-test",
        f"Histogram of the scores of the test images, class {name}",
        said,
        said,
        height=2.9,
    )


def _selection(key: str, name: str, course: charts.SelectionCourse) -> PageFigure:
    epochs = plural(len(course.selected), "epoch")
    said = f"At the last of {epochs} {course.selected[-1]:.0f} of {course.total} images are selected"
    if course.selected_defects is not None:
        said += f", {course.selected_defects[-1]:.0f} of the {course.defects} known defects among them"
    return page_figure(
        partial(charts.draw_selection, course=course),
        f"{key}-selection",
        f"Selected share and threshold at every epoch, class {name}",
        f"{said}; the threshold goes from {course.threshold[0]:.4g} to {course.threshold[-1]:.4g}.",
        f"{said}.",
        height=2.9,
    )


def _ranking_curve(run: FinishedRun, key: str, name: str, ranking: ClassRanking) -> PageFigure:
    rows = [row for row in table(run, "ranking.csv") if row["class"] == name]
    recall, precision = charts.precision_recall(
        np.array([float(row["score"]) for row in rows]), np.array([row["injected"] == "1" for row in rows])
    )
    share = ranking.known / ranking.images
    said = (
        f"AUPRC {percent(ranking.figures['auprc'])} %; all {plural(ranking.known, 'known defect')} lie in the first "
        f"{percent(ranking.figures['inspection_depth'])} % of the ranking (inspection depth)."
    )
    if run.metrics["ranking"].get("by") == "both":
        said += " The ranking is by the scores of the memory and the student together."
    return page_figure(
        partial(charts.draw_precision_recall, recall=recall, precision=precision, share=share),
        f"{key}-ranking",
        f"Precision and recall of the ranking of the training images, class {name}",
        f"{said} A random order has a precision of {percent(share)} %.",
        said,
        height=2.9,
    )
