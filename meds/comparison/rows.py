"""Runs a case of a comparison and gives its row."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meds.comparison.cases import Case, spec_of
from meds.comparison.measured import Measured, measured, own_fields
from meds.core.errors import UserError
from meds.core.finished_run import FinishedRun
from meds.core.pipeline import Pipeline
from meds.core.records import KnownDataSets
from meds.core.registry import Registry
from meds.core.reporter import Reporter
from meds.core.runner import Runner, RunRequest


@dataclass(frozen=True)
class Row(Measured):
    """What one case came to: the name of its written spec, its student, method and ratio, and all of `Measured`."""

    spec: str
    student: str
    method: str
    ratio: float | None

    def as_dict(self) -> dict[str, Any]:
        """One flat table row, ready for JSON."""
        row = asdict(self)
        figures = row.pop("figures")
        return {**row, **figures}


def check_case(
    case: Case, registry: Registry, runs: Path, reporter: Reporter, known: KnownDataSets | None = None
) -> None:
    """Refuse what would stop a case after others have run: its noise, the sizes of its stages, a missing evaluation.

    Raises:
        MedsError: one sentence about it.
    """
    _runner(case, registry, runs, reporter, known).check()


def run_case(case: Case, registry: Registry, runs: Path, reporter: Reporter, known: KnownDataSets | None = None) -> Row:
    """Run a case in a folder of its own below `runs`; what is finished is not computed again.

    `known` is shared by the cases of one command, so that each image is hashed once.

    Raises:
        UserError: the spec is not valid or has no stage evaluate.
    """
    runner = _runner(case, registry, runs, reporter, known)
    runner.run()
    return Row(
        **own_fields(measured(FinishedRun(runner.request.directory, registry))),
        spec=str(case.source.data["name"]),
        student=runner.pipeline.spec.student.type,
        method=case.method,
        ratio=case.ratio,
    )


def _runner(case: Case, registry: Registry, runs: Path, reporter: Reporter, known: KnownDataSets | None) -> Runner:
    spec = spec_of(case, registry)
    contents = None if known is None else known.of(spec.dataset.dump())
    pipeline = Pipeline(spec, registry, reporter=reporter, known=contents)
    if not any(planned.stage.produces == "evaluation" for planned in pipeline.stages):
        raise UserError(f"{case.source.name}: there is nothing to compare without the stage evaluate.")
    return Runner(pipeline, RunRequest(runs / spec.name), reporter)
