"""Runs four methods on contaminated solar cells over noise ratios and seeds, and prints the table of the docs.

    python benchmarks/solar_cells.py [--ratios 0 0.1 0.4] [--seeds 0 1 2] [--iterations 600] [--threads 2]

The methods are the plain student, the memory alone, the distilled student, and the full method; the full
method fine-tunes for as many iterations as the plain student trains. A seed sets the draw of the injected
defects and every random choice of the training. Finished rows are kept in a file and not run again.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from pathlib import Path

from meds.core.pipeline import Pipeline
from meds.core.registry import registry
from meds.core.runner import Runner, RunRequest
from meds.core.spec import resolve_spec
from meds.core.spec_source import SpecSource
from meds.core.stage import SilentReporter

METHODS = ("plain", "memory", "distilled", "full")
STUDENT = {"type": "rd", "layers": ["stride8", "stride16", "stride32"], "schedule": "cosine", "learning_rate": 0.002}
TITLES = {"plain": "plain RD", "memory": "memory only", "distilled": "distilled", "full": "full MeDS"}


def stages(method: str, iterations: int) -> list[dict[str, object]]:
    """The stage list of a method."""
    memory: dict[str, object] = {"type": "memory", "grid": 14}
    distill: dict[str, object] = {"type": "distill", "iterations": 300}
    finetune: dict[str, object] = {"type": "select-finetune", "iterations": iterations, "critical_value": 3.0}
    lists = {
        "plain": [{"type": "fit", "iterations": iterations}],
        "memory": [memory],
        "distilled": [memory, distill],
        "full": [memory, distill, finetune],
    }
    return [*lists[method], {"type": "evaluate"}]


def run(method: str, ratio: float, seed: int, given: argparse.Namespace) -> dict[str, object]:
    """One run; returns a row of figures."""
    name = f"solar-cells-{method}-{ratio:g}-{seed}-{given.iterations}"
    data: dict[str, object] = {
        "name": name,
        "seed": seed,
        "threads": given.threads,
        "dataset": {"type": "elpv", "cells": "mono"},
        "backbone": {"type": "efficientnet-lite0", "image_size": 224},
        "student": STUDENT,
        "stages": stages(method, given.iterations),
    }
    if ratio:
        data["noise"] = {"ratio": ratio, "seed": seed}
    pipeline = Pipeline(resolve_spec(SpecSource(name, data), registry()), registry())
    directory = given.runs_dir / name
    metrics = Runner(pipeline, RunRequest(directory), SilentReporter()).run()
    assert metrics is not None
    cost = sum(s["cost"]["wall_s"] for s in json.loads((directory / "run.json").read_text())["stages"])
    ranking = metrics["ranking"]["mean"]
    return {
        "method": method,
        "ratio": ratio,
        "seed": seed,
        "iterations": given.iterations,
        "image_auroc": metrics["mean"]["image_auroc"],
        "ranking_auroc": ranking["auroc"],
        "ranking_auprc": ranking["auprc"],
        "injected_share_selected": selected_share(directory),
        "seconds": cost,
    }


def selected_share(directory: Path) -> float | None:
    """Injected images among those selected at the last epoch; None where nothing was selected."""
    path = directory / "selection.csv"
    if not path.is_file():
        return None
    last = list(csv.DictReader(path.open()))[-1]
    return int(last["injected_selected"]) / int(last["selected"])


def table(rows: list[dict[str, object]]) -> str:
    """A Markdown table of means over seeds, with the smallest and largest image AUROC."""
    lines = [
        "| noise | method | image AUROC | lowest – highest | ranking AUROC | ranking AUPRC | injected among selected |",
        "|---|---|---|---|---|---|---|",
    ]
    for ratio in sorted({float(str(row["ratio"])) for row in rows}):
        for method in METHODS:
            chosen = [row for row in rows if row["ratio"] == ratio and row["method"] == method]
            if not chosen:
                continue
            auroc = [float(str(row["image_auroc"])) for row in chosen]
            cells = [f"{100 * ratio:g} %", TITLES[method], f"{100 * statistics.mean(auroc):.1f}"]
            cells.append(f"{100 * min(auroc):.1f} – {100 * max(auroc):.1f}")
            for key in ("ranking_auroc", "ranking_auprc", "injected_share_selected"):
                values = [float(str(row[key])) for row in chosen if row[key] is not None]
                cells.append(f"{100 * statistics.mean(values):.1f}" if values else "–")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.0, 0.1, 0.4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--rows", type=Path, default=Path("runs/solar-cells.jsonl"))
    given = parser.parse_args()
    given.rows.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in given.rows.read_text().splitlines()] if given.rows.is_file() else []
    for seed in given.seeds:
        for ratio in given.ratios:
            for method in given.methods:
                key = (method, ratio, seed, given.iterations)
                if any((r["method"], r["ratio"], r["seed"], r["iterations"]) == key for r in rows):
                    continue
                rows.append(run(method, ratio, seed, given))
                print(rows[-1], flush=True)
                with given.rows.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print(table([row for row in rows if row["iterations"] == given.iterations]))


if __name__ == "__main__":
    main()
