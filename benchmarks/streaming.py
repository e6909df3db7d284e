"""Runs meds on features that are larger than the memory it may have, and says how busy the extraction kept the cores.

    python benchmarks/streaming.py [--images 5000] [--limit-mib 2048] [--json FILE]

The child process may hold `limit-mib` of its own data (RLIMIT_DATA; the shards that it has open at a time count, too).
Features of all images take more than that: it only ends well if they are written as they come and read batch by batch.
The images are drawn, which is cheaper than reading them from a disk.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from surroundings import write_result


def spec(images: int) -> dict[str, Any]:
    """A plain student on the finest maps of a small CNN, because these are the largest."""
    return {
        "name": "streaming",
        "dataset": {"type": "synthetic", "classes": ["weave"], "train": images, "test_normal": 4, "test_defective": 4}
        | {"image_size": 224},
        "backbone": {"type": "efficientnet-lite0", "pretrained": False, "image_size": 224},
        "student": {"type": "rd", "layers": ["stride2", "stride4", "stride8"], "blocks": [1, 1, 1]},
        "stages": [{"type": "fit", "iterations": 20, "batch_size": 4}, {"type": "evaluate", "map_size": 64}],
    }


def main() -> None:
    """Run the child and print what it needed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--limit-mib", type=int, default=2048)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    limit = given.limit_mib * 2**20

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "spec.yaml"
        path.write_text(yaml.safe_dump(spec(given.images)), encoding="utf-8")
        command = [sys.executable, "-m", "meds", "run", str(path), "--runs-dir", place]
        environment = {**os.environ, "MEDS_HOME": str(Path(place) / "home")}
        done = subprocess.run(command, env=environment, preexec_fn=limited, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"The run failed within {given.limit_mib} MiB:\n{done.stderr[-2000:]}")
        events = [json.loads(line) for line in (Path(place) / "streaming" / "events.jsonl").read_text().splitlines()]
        (features,) = [event for event in events if event["event"] == "features"]
    size = features["bytes"] / 2**20
    busy = features["cpu_s"] / features["wall_s"]
    print(f"{given.images} images: {size:.0f} MiB of features within {given.limit_mib} MiB of memory")
    print(f"extraction: {features['images'] / features['wall_s']:.1f} images a second, {busy:.2f} cores busy")
    figures = {"images": given.images, "feature_mib": size, "limit_mib": given.limit_mib}
    write_result(given.json, figures | {"images_a_second": features["images"] / features["wall_s"], "cores_busy": busy})


if __name__ == "__main__":
    main()
