"""Compares the times that `meds plan` expects with those that `meds run` then takes, on the same machine.

    python benchmarks/plan.py SPEC [--set KEY=VALUE]... [--json FILE]

Both are commands of their own with a home of their own, so that nothing is done or loaded beforehand. The ratio is
planned over measured seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from price import costs_by_stage
from surroundings import write_result


def planned_seconds(found: dict[str, Any]) -> dict[str, float]:
    """Expected seconds of the features and of every stage; a stage that cannot tell ends the comparison."""
    seconds = {"features": found["encode_seconds"]} | {stage["name"]: stage["seconds"] for stage in found["stages"]}
    unknown = [name for name, value in seconds.items() if value is None]
    if unknown:
        raise SystemExit(f"The stage {unknown[0]} does not say how long it takes.")
    return seconds


def main() -> None:
    """Plan, run, print both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("spec", type=Path)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    options = [str(given.spec), *(part for value in given.sets for part in ("--set", value)), "--set", "name=measured"]
    with tempfile.TemporaryDirectory() as place:
        surroundings = {**os.environ, "MEDS_HOME": str(Path(place) / "home")}

        def meds(command: str, *more: str) -> str:
            line = [sys.executable, "-m", "meds", command, *options, *more]
            return subprocess.run(line, env=surroundings, check=True, stdout=subprocess.PIPE, text=True).stdout

        found = json.loads(meds("plan", "--json"))
        meds("run", "--runs-dir", place)
        costs = costs_by_stage(Path(place) / "measured")
    planned, measured = planned_seconds(found), {name: cost["wall_s"] for name, cost in costs.items()}
    planned["in all"], measured["in all"] = sum(planned.values()), sum(measured.values())
    print(f"{'':18}{'planned':>10}{'measured':>10}{'ratio':>8}")
    for name, seconds in planned.items():
        print(f"{name:18}{seconds:8.1f} s{measured[name]:8.1f} s{seconds / measured[name]:8.2f}")
    memory = costs["memory"]["peak_rss_mib"] if "memory" in costs else None
    print(f"patch vectors {found['memory_bytes'] / 2**20:.0f} MiB planned; the stage's process had {memory} MiB in all")
    write_result(
        given.json,
        {"spec": given.spec.name, "set": given.sets, "planned_seconds": planned, "measured_seconds": measured},
    )


if __name__ == "__main__":
    main()
