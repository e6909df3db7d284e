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
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from surroundings import write_result

from meds.core.context import stage_context
from meds.core.epochs import stage_length
from meds.core.pipeline import Pipeline
from meds.core.registry import registry
from meds.core.reporter import SilentReporter
from meds.core.runner import Runner, RunRequest
from meds.core.spec import load_spec
from meds.core.timing import probes, seconds_of, step_seconds
from meds.core.workload import interval_of_enough_passes, scoring_passes
from meds.stages.batch_statistics import LARGEST_NUMBER_OF_BATCHES
from meds.stages.fit import own_objective
from meds.stages.scoring_pass import SCORING_BATCH, settle, training_scores

INTERVALS = (1, 5, 10, 20)


def costs_by_stage(directory: Path) -> dict[str, dict[str, Any]]:
    """What the features and every stage of a run cost, as its events say it."""
    events = [json.loads(line) for line in (directory / "events.jsonl").read_text().splitlines()]
    found = {event["stage"]: event["cost"] for event in events if event["event"] == "after_stage"}
    return {"features": next(event for event in events if event["event"] == "features")} | found


def unit_seconds(pipeline: Pipeline, rounds: int) -> dict[str, float]:
    """Seconds of a step of distillation and of fine-tuning, and what an image takes in a pass that scores all.

    The pieces take turns, and medians over the rounds are given, so that a busy moment of the machine meets them all.
    """
    distill, finetune = (p.stage for p in pipeline.stages if p.block.type in ("distill", "select-finetune"))
    context = stage_context(pipeline, "price")
    student, options = context.new_student("price"), finetune.options
    size = stage_length(student, len(context.data.train), options).batch_size
    few, batch = probes(context, SCORING_BATCH), probes(context, size)
    pieces: dict[str, Callable[[], float]] = {
        "distill_step": lambda: step_seconds(context, student, distill.timed_objective(context), size),
        "step": lambda: step_seconds(context, student, own_objective(context), size),
        "scoring": lambda: seconds_of(lambda: training_scores(context, student, few, "cosine", options)) / len(few),
        "statistics": lambda: seconds_of(lambda: settle(context, student, batch, options, size)) / size,
    }
    taken = [{name: piece() for name, piece in pieces.items()} for _ in range(rounds)]
    return {"batch_size": size} | {name: statistics.median(each[name] for each in taken) for name in pieces}


def report(
    pipeline: Pipeline, costs: dict[str, Any], unit: dict[str, float], lengths: tuple[int, int]
) -> dict[str, Any]:
    """Print what each part costs in a training of (fine-tuning, distillation) iterations, and return the figures."""
    options, (iterations, distillation) = pipeline.stages[2].block.options, lengths
    count, size = len(pipeline.data.train), int(unit["batch_size"])
    images = round((1 - options.holdout) * count)
    print(f"{count} images, batches of {size}, {pipeline.runtime.describe()}")
    for name in ("step", "distill_step", "scoring", "statistics"):
        print(f"{name:22}{1e3 * unit[name] / (size if name.endswith('step') else 1):12.2f} ms an image")
    plain = iterations * unit["step"]
    settled = min(images, LARGEST_NUMBER_OF_BATCHES * size)
    one_pass = count * unit["scoring"] + settled * unit["statistics"]
    parts = {name: costs[name]["wall_s"] for name in ("features", "memory")}
    base = parts["features"] + plain
    parts |= {"distillation": distillation * unit["distill_step"], "fine-tuning as plain": plain}
    for name, value in parts.items():
        print(f"{name:22}{value:12.0f} s{100 * value / base:9.1f} % of plain training")
    ratios = {}
    usual = interval_of_enough_passes(images, size, iterations, options.critical_value)
    for interval in sorted({*INTERVALS, usual}):
        passes = scoring_passes(images, size, iterations, options.critical_value, interval=interval)
        ratios[interval] = (sum(parts.values()) + passes * one_pass) / base
        share = f"{passes} passes, {100 * passes * one_pass / plain:.1f} % of plain; in all {ratios[interval]:.2f}"
        print(f"scoring every {interval} epochs: {share}{' (the default)' if interval == usual else ''}")
    return {"seconds": parts, "unit_seconds": unit, "ratio_by_interval": ratios, "default_interval": usual}


def main() -> None:
    """Measure the pieces and print what each part costs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("spec", type=Path)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    parser.add_argument("--iterations", type=int, default=10000, help="fine-tuning iterations")
    parser.add_argument("--distill", type=int, default=500, help="distillation iterations")
    parser.add_argument("--rounds", type=int, default=5, help="times that each piece is timed")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ["MEDS_HOME"] = str(Path(place) / "home")
        pipeline = Pipeline(load_spec(given.spec, registry(), given.sets), registry())
        directory = Path(place) / "run"
        Runner(pipeline, RunRequest(directory, last="memory"), SilentReporter()).run()
        unit = unit_seconds(pipeline, given.rounds)
        figures = report(pipeline, costs_by_stage(directory), unit, (given.iterations, given.distill))
    write_result(given.json, {"spec": given.spec.name, "set": given.sets, **figures})


if __name__ == "__main__":
    main()
