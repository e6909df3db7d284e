"""What is known of a run while it goes: run.json, and the manifest of each artifact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meds.core.pipeline import Pipeline
from meds.core.plan import PlannedStage, file_digests
from meds.core.registry import OWN_DISTRIBUTION
from meds.core.run_directory import RunDirectory, library_versions
from meds.core.run_notes import remember_instead
from meds.core.spec import Spec
from meds.core.store import Artifact


class RunState:
    """The contents of run.json, written at every change."""

    def __init__(self, pipeline: Pipeline, directory: RunDirectory) -> None:
        self._directory = directory
        self.data: dict[str, Any] = {
            "status": "running",
            "name": pipeline.spec.name,
            "seed": pipeline.spec.seed,
            "device": pipeline.runtime.describe(),
            "precision": pipeline.runtime.precision,
            "stages": [_waiting(planned) for planned in pipeline.stages],
            "noise": pipeline.data.noise,
            "unreadable": list(pipeline.data.unreadable),
            "versions": library_versions(),
            "home": str(pipeline.home),
            "feature_cache": pipeline.features.folder.name,
            "encoder_files": file_digests(pipeline.spec.backbone.options),
            "plugins": foreign_plugins(pipeline.spec),
        }
        remember_instead(pipeline.home, directory.path, self.data)

    def note(self, position: int, status: str, artifact: Artifact | None) -> None:
        """Set a stage's status, and its artifact and cost if it is done."""
        row = self.data["stages"][position]
        row["status"] = status
        if artifact is not None:
            row["artifact"] = str(artifact.path)
            row["cost"] = artifact.manifest["cost"]

    def all_done(self) -> bool:
        """Whether every stage of the run is done."""
        return all(row["status"] == "done" for row in self.data["stages"])

    def write(self, status: str) -> None:
        """Write run.json with the run's status."""
        self.data["status"] = status
        self._directory.write_state(self.data)

    def end(self, status: str, error: str) -> list[str]:
        """Note that the run has "failed" or was "stopped", and why.

        Returns the names of the stages that were running, else of the one that was to come next.
        """
        failed = [row for row in self.data["stages"] if row["status"] == "running"]
        for row in failed:
            row["status"] = status
        self.data["error"] = error
        try:
            self.write(status)
        except Exception:  # a full disk must not hide the error that is being reported
            return []
        next_one = [row for row in self.data["stages"] if row["status"] == "waiting"][:1]
        return [row["name"] for row in failed or next_one]


def foreign_plugins(spec: Spec) -> dict[str, list[str]]:
    """What tells the code of encoder, student and stages of other packages, by kind and name: versions and source.

    Of meds itself, any version opens a run that it understands.
    """
    blocks = [("backbone", spec.backbone), ("student", spec.student), *(("stage", block) for block in spec.stages)]
    return {
        f"{kind} '{block.type}'": block.registration.identity()
        for kind, block in blocks
        if block.registration.package != OWN_DISTRIBUTION
    }


def _waiting(planned: PlannedStage) -> dict[str, Any]:
    return {
        "name": planned.name,
        "type": planned.block.type,
        "fingerprint": planned.fingerprint,
        "status": "waiting",
        "artifact": None,
        "cost": None,
    }


def manifest_of(pipeline: Pipeline, planned: PlannedStage, cost: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a stage's artifact, without its files and info."""
    registration = planned.block.registration
    return {
        "kind": planned.stage.produces,
        "fingerprint": planned.fingerprint,
        "stage": planned.block.dump(),
        "inputs": {kind: pipeline.stages[i].fingerprint for kind, i in planned.inputs.items()},
        "plugin": {"name": registration.plugin.name, "package": registration.package},
        "plugin_version": registration.package_version,
        "versions": library_versions(),
        "device": pipeline.runtime.describe(),
        "seed": pipeline.spec.seed,
        "cost": dict(cost),
    }
