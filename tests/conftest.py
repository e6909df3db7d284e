"""Fixtures of all tests: a MEDS_HOME of its own for each, a tiny spec, and the command run in this process."""

from __future__ import annotations

import copy
import csv
import io
import json
import os
import random
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # Set before torch is imported: processes side by side would else start a thread for every core each.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run of the tests; `--hypothesis-profile default` looks for others.
settings.register_profile("same-examples", derandomize=True, deadline=None)
settings.load_profile("same-examples")

TINY: dict[str, Any] = {
    "name": "tiny",
    "device": os.environ.get("MEDS_TEST_DEVICE", "cpu"),
    "precision": "fp32",
    "threads": 1,
    "dataset": {
        "type": "synthetic",
        "classes": ["weave", "discs"],
        "train": 8,
        "test_normal": 4,
        "test_defective": 4,
        "image_size": 64,
    },
    "noise": {"ratio": 0.25},
    "backbone": {"type": "efficientnet-lite0", "pretrained": False, "image_size": 64},
    "student": {"type": "rd", "blocks": [1, 1, 1], "bottleneck_blocks": 1},
    "stages": [
        {"type": "memory"},
        {"type": "distill", "iterations": 4, "batch_size": 4},
        {"type": "select-finetune", "iterations": 6, "batch_size": 4},
        {"type": "evaluate", "map_size": 64},
    ],
}


@dataclass(frozen=True)
class Finished:
    """How a command ended: its exit code and what it printed, `said` being all of it on one line."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Standard output and error with every run of white space as one blank."""
        return " ".join(f"{self.out} {self.err}".split())


def run_command(*arguments: object) -> Finished:
    """Run `meds` with these arguments through its entry point, in this process."""
    from meds.__main__ import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["meds", *map(str, arguments)])
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except Exception:
            traceback.print_exc(file=err)
            code = 1
    return Finished(code, out.getvalue(), err.getvalue())


class Project:
    """A folder with a spec and its runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.spec, self.runs = root / "spec.yaml", root / "runs"

    def write(self, spec: dict[str, Any] | str) -> Path:
        """Write the spec file and return its path."""
        text = spec if isinstance(spec, str) else yaml.safe_dump(spec, sort_keys=False)
        self.spec.write_text(text, encoding="utf-8")
        return self.spec

    def run(self, *arguments: object, spec: dict[str, Any] | None = None) -> Finished:
        """`meds run` with more arguments, after writing the spec if one is given."""
        if spec is not None:
            self.write(spec)
        return run_command("run", self.spec, "--runs-dir", self.runs, *arguments)

    def run_well(self, *arguments: object, spec: dict[str, Any] | None = None) -> Finished:
        """`run` that must end with exit code 0."""
        done = self.run(*arguments, spec=spec)
        assert done.code == 0, done.err
        return done

    def file(self, path: str, name: str = "tiny") -> Path:
        """A file of a run directory."""
        return self.runs / name / path

    def json(self, path: str, name: str = "tiny") -> Any:
        """A JSON file of a run directory."""
        return json.loads(self.file(path, name).read_text(encoding="utf-8"))

    def rows(self, path: str, name: str = "tiny") -> list[dict[str, str]]:
        """A CSV file of a run directory."""
        with self.file(path, name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def events(self, kind: str, name: str = "tiny") -> list[dict[str, Any]]:
        """The events of one kind, in their order; none of a run that could not begin."""
        file = self.file("events.jsonl", name)
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def computed(self, name: str = "tiny") -> list[str]:
        """Names of the stages that were computed, in their order, over all commands on the run."""
        return [event["stage"] for event in self.events("before_stage", name)]


@pytest.fixture(autouse=True)
def meds_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """MEDS_HOME below the test's own folder, and none of the user's settings."""
    for name in ("MEDS_CACHE_GIB", "MEDS_CHECKPOINT_SECONDS", "MEDS_PLUGINS", "MEDS_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MEDS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Each test draws the same random numbers, whichever ran before it."""
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def tiny_spec() -> dict[str, Any]:
    """A whole pipeline on drawn images with a random encoder, as plain data to be changed at will."""
    return copy.deepcopy(TINY)


@pytest.fixture
def meds() -> Callable[..., Finished]:
    """The command `meds`, run in this process: meds("status", folder)."""
    return run_command


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An empty project in the test's own folder."""
    return Project(tmp_path)


@pytest.fixture(scope="session")
def _finished_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDS_HOME", str(root / "home"))
        Project(root).run_well(spec=TINY)
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def finished(_finished_once: Path, tmp_path: Path) -> Project:
    """A project whose tiny run is finished, with its home, copied for this test alone."""
    shutil.copytree(_finished_once, tmp_path, dirs_exist_ok=True)
    project = Project(tmp_path)
    # What the run says of its home must be the copy's, or a test could change that of all others.
    for path in (project.file("run.json"), *project.file("").glob("*/artifact.json")):
        path.write_text(path.read_text(encoding="utf-8").replace(str(_finished_once), str(tmp_path)), encoding="utf-8")
    return project
