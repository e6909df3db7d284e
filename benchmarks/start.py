"""Times how long a new process takes: `meds --help`, and `meds predict` on one image with EfficientNet-Lite0.

    python benchmarks/start.py [--times 10] [--json FILE]

Every start is a process of its own, from the command to its end; median and largest are printed. The run that predicts
is made first, as short as can be. Peer: `anomalib --help`, if it is installed, which is the field's command line.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from surroundings import write_result

from meds.plugins.datasets.synthetic import SyntheticDataset, SyntheticOptions

SPEC = {
    "name": "start",
    "dataset": {"type": "synthetic", "classes": ["weave"], "train": 16, "test_normal": 4, "test_defective": 4},
    "backbone": {"type": "efficientnet-lite0", "image_size": 224},
    "student": {"type": "rd"},
    "stages": [{"type": "fit", "iterations": 5}, {"type": "evaluate"}],
}


def seconds_of_starts(command: list[str], times: int, environment: dict[str, str]) -> list[float]:
    """Wall seconds of so many processes; the first one, which also warms the disk's cache, is left out."""
    taken = []
    for _ in range(times + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        taken.append(time.perf_counter() - start)
    return taken[1:]


def main() -> None:
    """Make the run, start everything many times and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    meds = [sys.executable, "-m", "meds"]
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        environment = {**os.environ, "MEDS_HOME": str(Path(place) / "home")}
        spec, image = Path(place) / "spec.yaml", Path(place) / "image.png"
        spec.write_text(yaml.safe_dump(SPEC), encoding="utf-8")
        dataset = SyntheticDataset(SyntheticOptions(classes=["weave"], train=16))
        Image.fromarray(dataset.read_image(dataset.records()[0])).save(image)
        run = [*meds, "run", str(spec), "--runs-dir", place]
        subprocess.run(run, check=True, env=environment, stdout=subprocess.DEVNULL)
        predict = [*meds, "predict", str(Path(place) / "start"), str(image), "--output", str(Path(place) / "found")]
        commands = {"meds --help": [*meds, "--help"], "meds predict, one image": predict}
        if find_spec("anomalib") is not None:
            commands["anomalib --help"] = [sys.executable, "-m", "anomalib.cli.cli", "--help"]
        print(f"{'':26}{'median':>9}{'largest':>9}  seconds, {given.times} starts")
        for name, command in commands.items():
            taken = seconds_of_starts(command, given.times, environment)
            figures[name] = {"median": statistics.median(taken), "largest": max(taken), "all": taken}
            print(f"{name:26}{figures[name]['median']:9.2f}{figures[name]['largest']:9.2f}")
    write_result(given.json, figures, "anomalib")


if __name__ == "__main__":
    main()
