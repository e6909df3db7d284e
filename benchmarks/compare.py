"""Runs the plain student, the memory alone, the distilled student and full MeDS of a spec, and prints the docs' table.

    python benchmarks/compare.py examples/solar-cells.yaml [--ratios 0 0.1 0.4] [--seeds 0 1 2] [--set KEY=VALUE]...

`meds compare` does the same for one's own eyes; this prints every figure as Markdown. The plain student trains for as
many iterations as the full method fine-tunes. A seed sets the draw of the injected defects and every random choice of
the training. What is finished is not computed again.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from meds.comparison.cases import cases
from meds.comparison.methods import METHODS
from meds.comparison.rows import Row, run_case
from meds.core.metric_names import METRIC_NAMES
from meds.core.records import KnownDataSets
from meds.core.registry import registry
from meds.core.reporter import SilentReporter
from meds.core.spec_source import read_spec

FIGURES = METRIC_NAMES | {
    "ranking_auroc": "ranking AUROC",
    "ranking_auprc": "ranking AUPRC",
    "ranking_inspection_depth": "inspection depth",
    "injected_selected": "injected among selected",
}


def table(rows: Sequence[Row]) -> str:
    """A Markdown table of means over seeds in percent, the image AUROC with its lowest and highest value."""
    shown = [key for key in FIGURES if any(row.figures.get(key) is not None for row in rows)]
    lines = ["| noise | method | " + " | ".join(FIGURES[key] for key in shown) + " |"]
    lines.append("|---" * (len(shown) + 2) + "|")
    for ratio in sorted({row.ratio or 0.0 for row in rows}):
        for method, title in METHODS.items():
            chosen = [row for row in rows if (row.ratio, row.method) == (ratio, method)]
            if chosen:
                cells = [cell(key, [v for row in chosen if (v := row.figures.get(key)) is not None]) for key in shown]
                lines.append(f"| {100 * ratio:g} % | {title} | {' | '.join(cells)} |")
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
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    given = parser.parse_args()
    rows, known = [], KnownDataSets()
    for case in cases([read_spec(given.spec, given.sets)], given.ratios, given.seeds, given.methods):
        rows.append(run_case(case, registry(), given.runs_dir, SilentReporter(), known))
        print(rows[-1].as_dict(), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
