"""Compares the times that `meds plan` expects with those that the run then takes, on the same machine.

    python benchmarks/plan.py SPEC [--set KEY=VALUE]... [--json FILE]

Plan and run have a home of their own, so that nothing is done beforehand. The ratio is planned over measured seconds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from price import costs_by_stage
from surroundings import write_result

from meds.core.estimate import PlanEstimate, estimate
from meds.core.pipeline import Pipeline
from meds.core.registry import registry
from meds.core.spec import load_spec


def planned_seconds(found: PlanEstimate) -> dict[str, float]:
    """Expected seconds of the features and of every stage; a stage that cannot tell is an error."""
    unknown = [stage.name for stage in found.stages if stage.seconds is None]
    if unknown:
        raise SystemExit(f"The stage {unknown[0]} does not say how long it takes.")
    return {"features": found.encode_seconds} | {stage.name: stage.seconds or 0.0 for stage in found.stages}


def main() -> None:
    """Plan, run, print both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("spec", type=Path)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ["MEDS_HOME"] = str(Path(place) / "home")
        found = estimate(Pipeline(load_spec(given.spec, registry(), given.sets), registry()))
        costs = costs_by_stage(given.spec, given.sets, Path(place) / "run")
    planned, measured = planned_seconds(found), {name: cost["wall_s"] for name, cost in costs.items()}
    planned["in all"], measured["in all"] = sum(planned.values()), sum(measured.values())
    print(f"{'':18}{'planned':>10}{'measured':>10}{'ratio':>8}")
    for name, seconds in planned.items():
        print(f"{name:18}{seconds:8.1f} s{measured[name]:8.1f} s{seconds / measured[name]:8.2f}")
    sizes = {"planned": found.memory_bytes, "features_measured": costs["features"]["bytes"]}
    print(f"features: {found.feature_bytes / 2**20:.0f} MiB planned, {sizes['features_measured'] / 2**20:.0f} on disk")
    write_result(
        given.json,
        {"spec": given.spec.name, "set": given.sets, "planned_seconds": planned, "measured_seconds": measured},
    )


if __name__ == "__main__":
    main()
