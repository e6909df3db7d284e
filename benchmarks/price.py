"""Measures what MeDS costs over plain training with the same number of fine-tuning iterations.

    python benchmarks/price.py SPEC [--set KEY=VALUE]... [--iterations 10000] [--distill 500] [--json FILE]

Runs both once with few iterations, in a home of their own, and takes each stage's seconds from the runs. Whatever grows
with the iterations is then scaled to the length of the published trainings; features and memory do not grow. The spec
names memory, distill, select-finetune and evaluate in this order, as `examples/solar-cells.yaml` does.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from surroundings import write_result

from meds.core.pipeline import Pipeline
from meds.core.registry import registry
from meds.core.runner import Runner, RunRequest
from meds.core.spec import load_spec
from meds.core.stage import SilentReporter


def seconds_by_stage(spec: Path, sets: list[str], directory: Path) -> dict[str, float]:
    """Wall seconds of the features and of every stage of a run."""
    pipeline = Pipeline(load_spec(spec, registry(), sets), registry())
    Runner(pipeline, RunRequest(directory), SilentReporter()).run()
    events = [json.loads(line) for line in (directory / "events.jsonl").read_text().splitlines()]
    found = {event["stage"]: event["cost"]["wall_s"] for event in events if event["event"] == "after_stage"}
    return found | {"features": sum(event["wall_s"] for event in events if event["event"] == "features")}


def main() -> None:
    """Run both and print what each part costs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("spec", type=Path)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    parser.add_argument("--iterations", type=int, default=10000, help="fine-tuning iterations to scale to")
    parser.add_argument("--distill", type=int, default=500, help="distillation iterations to scale to")
    parser.add_argument("--measured", type=int, default=60, help="iterations that are really run")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    few = given.measured
    with tempfile.TemporaryDirectory() as place:
        os.environ["MEDS_HOME"] = str(Path(place) / "home")
        lengths = [f"stages.distill.iterations={few}", f"stages.select-finetune.iterations={few}"]
        full = seconds_by_stage(given.spec, [*given.sets, *lengths], Path(place) / "full")
        alone = [*given.sets, f"stages=[{{type: fit, iterations: {few}}}, {{type: evaluate}}]"]
        plain = seconds_by_stage(given.spec, alone, Path(place) / "plain")
    fine, first = given.iterations / few, given.distill / few
    parts = {
        "features": full["features"],
        "memory": full["memory"],
        "distillation": first * full["distill"],
        "fine-tuning as plain": fine * plain["fit"],
        "selection": fine * (full["select-finetune"] - plain["fit"]),
    }
    base = parts["features"] + parts["fine-tuning as plain"]
    figures: dict[str, Any] = {name: value / base for name, value in parts.items()}
    figures |= {
        "ratio": sum(parts.values()) / base,
        "selection_of_an_epoch": parts["selection"] / (fine * plain["fit"]),
    }
    for name, value in parts.items():
        print(f"{name:22}{value:12.0f} s{100 * value / base:9.1f} % of plain training")
    print(f"MeDS / plain: {figures['ratio']:.2f} at {given.iterations} iterations, {given.distill} of distillation")
    write_result(given.json, {"spec": given.spec.name, "measured_seconds": {"full": full, "plain": plain}, **figures})


if __name__ == "__main__":
    main()
