"""All that a report says about one run, gathered from its files and artifacts for the template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meds.core.finished_run import FinishedRun
from meds.core.reporter import ProgressBar
from meds.reports.examples import Group, example_groups
from meds.reports.facts import ClassImages, StageFacts, class_images, run_facts, stage_facts
from meds.reports.opened import unreadable_spec
from meds.reports.page import common_folder
from meds.reports.pictures import ReportPictures
from meds.reports.ranking import Ranking, read_ranking
from meds.reports.results import ClassResult, Outcomes, class_results, defined_figures, outcomes
from meds.reports.run_figures import ClassFigures, class_figures
from meds.reports.training_scores import training_scores


@dataclass(frozen=True)
class RunReport:
    """One run for the template; `closed` says why its artifacts cannot be opened, if they cannot."""

    key: str
    name: str
    closed: str | None
    facts: list[tuple[str, str]]
    spec: str
    images: list[ClassImages]
    noise: dict[str, Any]
    in_both_splits: int
    unreadable: list[str]
    results: list[ClassResult]
    titles: dict[str, str]
    mean: dict[str, float | None]
    outcomes: Outcomes
    ranking: Ranking
    figures: list[ClassFigures]
    missing: list[str]
    examples: list[Group]
    folder: str
    scales: dict[str, list[float]]
    stages: list[StageFacts]
    lost: str | None

    @property
    def seconds(self) -> float:
        """What all stages took, the encoder included."""
        return sum((float(stage.cost["wall_s"]) for stage in self.stages if stage.cost), 0.0)

    @property
    def uses_gpu(self) -> bool:
        """Whether a stage took memory of a GPU."""
        return any(stage.cost["peak_gpu_mib"] for stage in self.stages if stage.cost)


def steps(run: FinishedRun) -> int:
    """How often `report_of` moves its bar: once a class, and once for the images."""
    return len(run.data.class_names) + 1


def report_of(run: FinishedRun, key: str, bar: ProgressBar) -> RunReport:
    """Gather one run; `key` tells its figures from those of other runs on the page.

    Raises:
        UserError: the run's artifacts are gone from the store.
    """
    closed = unreadable_spec(run)
    ranking = read_ranking(run)
    points = [] if closed else training_scores(run)
    metrics = run.metrics
    figures = []
    for place, name in enumerate(run.data.class_names):
        figures.append(class_figures(run, f"{key}-{place}", name, points, ranking.classes[place]))
        bar.advance()
    trained = {sample.digest for sample in run.data.train}
    pictures = None if closed else ReportPictures(run)
    examples = example_groups(run, pictures) if pictures else []
    bar.advance()
    return RunReport(
        key=key,
        name=run.state["name"],
        closed=closed,
        facts=run_facts(run, not closed),
        spec=run.spec_text,
        images=class_images(run),
        noise=metrics["noise"],
        in_both_splits=sum(sample.digest in trained for sample in run.data.test),
        unreadable=run.state.get("unreadable", []),
        results=class_results(run),
        titles=defined_figures(metrics["mean"]),
        mean=metrics["mean"],
        outcomes=outcomes(run),
        ranking=ranking,
        figures=figures,
        missing=_once(figures),
        examples=examples,
        folder=common_folder([sample.record.path for sample in run.data.samples()]),
        scales={name: row["heatmap"] for name, row in metrics.get("calibration", {}).items()},
        stages=stage_facts(run, not closed),
        lost=pictures.lost() if pictures else None,
    )


def _once(figures: list[ClassFigures]) -> list[str]:
    """What is missing, each sentence once; with the names of the classes where not all lack it."""
    sentences: dict[str, list[str]] = {}
    for one in figures:
        for sentence in one.missing:
            sentences.setdefault(sentence, []).append(one.name)
    return [
        sentence if len(names) == len(figures) else f"{', '.join(names)}: {sentence}"
        for sentence, names in sentences.items()
    ]
