"""`meds evaluate`: evaluates a run again from its stored student."""

from __future__ import annotations

from pathlib import Path

from meds.cli.console import ConsoleReporter
from meds.cli.results import show_metrics


def evaluate_run(run: Path) -> None:
    """Run the evaluation stage of a finished run again; UserError if earlier stages are not stored."""
    from meds.core.errors import UserError
    from meds.core.pipeline import Pipeline
    from meds.core.registry import registry
    from meds.core.run_directory import RunDirectory
    from meds.core.runner import Runner, RunRequest
    from meds.core.spec import load_spec

    # What was computed in another place or precision has other names.
    state = RunDirectory(run).read_state()
    spec = load_spec(run / "spec.yaml", registry())
    pipeline = Pipeline(spec, registry(), Path(state["home"]), precision=state["precision"])
    names = [planned.name for planned in pipeline.stages if planned.stage.produces == "evaluation"]
    if not names:
        raise UserError(f"{run}: its spec has no evaluation; add `- {{type: evaluate}}` to its stages.")
    request = RunRequest(run, first=names[-1], force=True)
    metrics = Runner(pipeline, request, ConsoleReporter()).run()
    if metrics is not None:
        show_metrics(metrics)
