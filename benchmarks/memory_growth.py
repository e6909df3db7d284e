"""Times the stage memory's search for more and more images whose memories are drawn from at most `--cap` of them.

    python benchmarks/memory_growth.py [--cap 60] [--counts 60,120,240,480] [--channels 384] [--json FILE]

The exponent is the slope of log(seconds) over log(images). Candidates are multiplied once with each other and every
other image once with each candidate, so the seconds should lie on the line a x images - b; how far they are from the
best such line is printed too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from memory import drawn_vectors, ours
from surroundings import write_result

from meds.core.runtime import Runtime


def main() -> None:
    """Run the search for every count and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cap", type=int, default=60)
    parser.add_argument("--counts", type=lambda text: [int(part) for part in text.split(",")], default="60,120,240,480")
    parser.add_argument("--patches", type=int, default=784)
    parser.add_argument("--channels", type=int, default=384)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    runtime = Runtime()
    coarse = runtime.precision == "bf16"
    vectors = drawn_vectors(max(given.counts), given.patches, given.channels)
    ours(vectors[:8], runtime, coarse)
    taken, peaks = [], []
    print(f"{'images':>6}{'seconds':>10}{'peak memory over the vectors':>32}")
    for count in given.counts:
        _, cost = ours(vectors[:count], runtime, coarse, max_images=given.cap)
        taken.append(cost["seconds"])
        peaks.append(cost["memory"])
        print(f"{count:6}{taken[-1]:10.2f}{peaks[-1]:32.2f}")
    counts = np.array(given.counts, dtype=float)
    exponent = float(np.polyfit(np.log(counts), np.log(taken), 1)[0])
    last = float(np.diff(np.log(taken))[-1] / np.diff(np.log(counts))[-1])
    line = np.polyval(np.polyfit(counts, taken, 1), counts)
    off = float(np.abs(line / taken - 1).max())
    print(f"exponent {exponent:.2f}, between the last two {last:.2f}; the best line is off by at most {off:.1%}")
    figures = {"counts": given.counts, "cap": given.cap, "channels": given.channels, "seconds": taken, "peaks": peaks}
    write_result(given.json, figures | {"exponent": exponent, "exponent_of_last_two": last, "largest_gap": off})


if __name__ == "__main__":
    main()
