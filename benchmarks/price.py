"""Measures what MeDS costs over plain training with the same number of fine-tuning iterations.

    python benchmarks/price.py SPEC [--set KEY=VALUE]... [--iterations 10000] [--distill 500] [--json FILE]

Features and memory are computed as a run does it. A step of each training and a pass over all images are then timed
on these features, and multiplied by their number in a training of the length of the published ones, as `meds plan`
does it; `plan.py` shows how far such products are from what runs take. The spec names memory, distill,
select-finetune and evaluate in this order, as `examples/solar-cells.yaml` does.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from surroundings import seconds_of, write_result

from meds.core.context import stage_context
from meds.core.pipeline import Pipeline
from meds.core.registry import registry
from meds.core.runner import Runner, RunRequest
from meds.core.spec import load_spec
from meds.core.stage import SilentReporter
from meds.core.timing import step_seconds
from meds.core.training import stage_length
from meds.core.workload import scoring_passes
from meds.stages.fit import own_objective
from meds.stages.scoring_pass import settle, training_scores

INTERVALS = (1, 5, 10, 20)


def costs_by_stage(spec: Path, sets: list[str], directory: Path, last: str | None = None) -> dict[str, dict[str, Any]]:
    """What the features and every stage of a run cost, as its events say it."""
    pipeline = Pipeline(load_spec(spec, registry(), sets), registry())
    Runner(pipeline, RunRequest(directory, last=last), SilentReporter()).run()
    events = [json.loads(line) for line in (directory / "events.jsonl").read_text().splitlines()]
    found = {event["stage"]: event["cost"] for event in events if event["event"] == "after_stage"}
    return {"features": next(event for event in events if event["event"] == "features")} | found


def unit_seconds(pipeline: Pipeline) -> dict[str, float]:
    """Seconds of a step of distillation and of fine-tuning, and of a pass that scores all training images."""
    distill, finetune = (p.stage for p in pipeline.stages if p.block.type in ("distill", "select-finetune"))
    context = stage_context(pipeline, "price")
    samples = context.data.train
    student = context.new_student("price")
    size = stage_length(student, len(samples), finetune.options).batch_size
    objective = distill.timed_objective(context)  # type: ignore[attr-defined]
    distillation = step_seconds(context, student, objective, size)
    step = step_seconds(context, student, own_objective(context), size)
    settling = seconds_of(lambda: settle(context, student, samples, finetune.options, size), 2)
    scoring = seconds_of(lambda: training_scores(context, student, samples, "cosine", finetune.options), 2)
    return {"batch_size": size, "distill_step": distillation, "step": step, "statistics": settling, "scoring": scoring}


def main() -> None:
    """Measure the pieces and print what each part costs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("spec", type=Path)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    parser.add_argument("--iterations", type=int, default=10000, help="fine-tuning iterations")
    parser.add_argument("--distill", type=int, default=500, help="distillation iterations")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ["MEDS_HOME"] = str(Path(place) / "home")
        costs = costs_by_stage(given.spec, given.sets, Path(place) / "run", "memory")
        pipeline = Pipeline(load_spec(given.spec, registry(), given.sets), registry())
        unit = unit_seconds(pipeline)
    options = pipeline.stages[2].block.options
    images = round((1 - options.holdout) * len(pipeline.data.train))
    one_pass, plain = unit["statistics"] + unit["scoring"], given.iterations * unit["step"]
    base = costs["features"]["wall_s"] + plain
    fixed = {
        "features": costs["features"]["wall_s"],
        "memory": costs["memory"]["wall_s"],
        "distillation": given.distill * unit["distill_step"],
        "fine-tuning as plain": plain,
    }
    print(f"{len(pipeline.data.train)} images, batches of {unit['batch_size']:.0f}, {pipeline.runtime.describe()}")
    print(
        f"step {unit['step'] * 1e3:.0f} ms, of distillation {unit['distill_step'] * 1e3:.0f} ms; a pass over all images"
    )
    print(f"{unit['scoring']:.2f} s and {unit['statistics']:.2f} s for the statistics of batch normalisation")
    for name, value in fixed.items():
        print(f"{name:22}{value:12.0f} s{100 * value / base:9.1f} % of plain training")
    ratios = {}
    for interval in INTERVALS:
        passes = scoring_passes(
            images, int(unit["batch_size"]), given.iterations, options.critical_value, interval=interval
        )
        share, ratios[interval] = passes * one_pass / plain, (sum(fixed.values()) + passes * one_pass) / base
        every = f"scoring every {interval} epochs"
        print(f"{every}: {passes} passes, {100 * share:.1f} % of plain; in all {ratios[interval]:.2f}")
    figures = {"fixed_seconds": fixed, "unit_seconds": unit, "ratio_by_interval": ratios}
    write_result(given.json, {"spec": given.spec.name, "set": given.sets, **figures})


if __name__ == "__main__":
    main()
