"""Runs the plain student, the memory alone, the distilled student and full MeDS of a spec, and prints the docs' table.

    python benchmarks/compare.py examples/solar-cells.yaml [--ratios 0 0.1 0.4] [--seeds 0 1 2] [--set KEY=VALUE]...

The spec's stages must be memory, distill, select-finetune and evaluate; the plain student trains for as many
iterations as the full method fine-tunes. A seed sets the draw of the injected defects and every random choice of the
training. Finished rows are kept in a file and not run again.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from pathlib import Path
from typing import Any

from meds.core.pipeline import Pipeline
from meds.core.registry import registry
from meds.core.runner import Runner, RunRequest
from meds.core.spec import resolve_spec
from meds.core.spec_source import SpecSource, read_spec
from meds.core.stage import SilentReporter

METHODS = ("plain", "memory", "distilled", "full")
TITLES = {"plain": "plain student", "memory": "memory only", "distilled": "distilled", "full": "full MeDS"}
FIGURES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1max": "pixel F1-max",
    "pixel_aupro": "pixel AUPRO",
    "ranking_auroc": "ranking AUROC",
    "ranking_auprc": "ranking AUPRC",
    "ranking_inspection_depth": "inspection depth",
    "injected_selected": "injected among selected",
}


def stages(whole: list[dict[str, Any]], method: str) -> list[dict[str, Any]]:
    """The stage list of a method, from that of the full method."""
    memory, distill, finetune, evaluate = whole
    fit = {"type": "fit"} | {k: finetune[k] for k in ("iterations", "batch_size") if k in finetune}
    lists = {"plain": [fit], "memory": [memory], "distilled": [memory, distill], "full": [memory, distill, finetune]}
    return [*lists[method], evaluate]


def run(source: SpecSource, method: str, ratio: float, seed: int, runs: Path) -> dict[str, object]:
    """One run; returns a row of figures."""
    data = dict(source.data)
    name = f"{data['name']}-{method}-{ratio:g}-{seed}"
    data |= {"name": name, "seed": seed, "stages": stages(data["stages"], method)}
    data["noise"] = {**(data.get("noise") or {}), "ratio": ratio, "seed": seed} if ratio else None
    pipeline = Pipeline(resolve_spec(SpecSource(name, data), registry()), registry())
    metrics = Runner(pipeline, RunRequest(runs / name), SilentReporter()).run()
    assert metrics is not None
    found = dict(metrics["mean"]) | {f"ranking_{key}": value for key, value in metrics["ranking"]["mean"].items()}
    found["injected_selected"] = selected_share(runs / name)
    cost = sum(stage["cost"]["wall_s"] for stage in json.loads((runs / name / "run.json").read_text())["stages"])
    row = {"spec": source.data["name"], "method": method, "ratio": ratio, "seed": seed, "seconds": cost}
    return row | {key: found.get(key) for key in FIGURES}


def selected_share(directory: Path) -> float | None:
    """Injected images among those selected at the last epoch; None where nothing was selected."""
    path = directory / "selection.csv"
    if not path.is_file():
        return None
    rows = list(csv.DictReader(path.open()))
    last = {row["class"]: row for row in rows}.values()
    return sum(int(row["injected_selected"]) for row in last) / sum(int(row["selected"]) for row in last)


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of means over seeds in percent, the image AUROC with its lowest and highest value."""
    shown = [key for key in FIGURES if any(row.get(key) is not None for row in rows)]
    lines = ["| noise | method | " + " | ".join(FIGURES[key] for key in shown) + " |"]
    lines.append("|---" * (len(shown) + 2) + "|")
    for ratio in sorted({row["ratio"] for row in rows}):
        for method in METHODS:
            chosen = [row for row in rows if (row["ratio"], row["method"]) == (ratio, method)]
            if chosen:
                cells = [cell(key, [row[key] for row in chosen if row.get(key) is not None]) for key in shown]
                lines.append(f"| {100 * ratio:g} % | {TITLES[method]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(key: str, values: list[float]) -> str:
    """One cell of the table."""
    if not values:
        return "–"
    mean = f"{100 * statistics.mean(values):.1f}"
    if key == "image_auroc" and len(values) > 1:
        return f"{mean} ({100 * min(values):.1f} – {100 * max(values):.1f})"
    return mean


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.0, 0.1, 0.4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--rows", type=Path, help="default: <runs-dir>/<name of the spec>.jsonl")
    given = parser.parse_args()
    source = read_spec(given.spec, given.sets)
    path = given.rows or given.runs_dir / f"{source.data['name']}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    for seed in given.seeds:
        for ratio in given.ratios:
            for method in given.methods:
                if any((row["method"], row["ratio"], row["seed"]) == (method, ratio, seed) for row in rows):
                    continue
                rows.append(run(source, method, ratio, seed, given.runs_dir))
                print(rows[-1], flush=True)
                with path.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
