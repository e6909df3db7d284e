"""Faults that are nobody's mistake: a full disk, and two commands on one run at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

STAGES = ["memory", "distill", "select-finetune", "evaluate"]
REPORTS = ("metrics.json", "predictions.csv", "ranking.csv", "selection.csv")


def mount(*arguments: object) -> bool:
    """Whether mounting worked, which takes root and the right to do it."""
    done = subprocess.run(["mount", "-t", "tmpfs", *map(str, arguments)], capture_output=True, check=False)
    return done.returncode == 0


def start(*arguments: object) -> subprocess.Popen[str]:
    """`meds` in a process of its own."""
    command = [sys.executable, "-m", "meds", *map(str, arguments)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0 or not mount("-o", "size=2m", "meds-test", folder):
        pytest.skip("needs Linux, root and the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("what", ["home", "runs"])
def test_a_full_disk_is_said_and_the_same_command_goes_on_when_there_is_space(
    project: Any, tiny_spec: dict[str, Any], small_disk: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if what == "home":
        monkeypatch.setenv("MEDS_HOME", str(small_disk / "home"))
    else:
        project.runs = small_disk / "runs"
        (small_disk / "ballast").write_bytes(bytes(2**21 - 2**13))
    done = project.run(spec=tiny_spec)
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    sentence, command = done.err.splitlines()
    assert sentence.startswith(f"meds: The disk that holds {small_disk}/")
    assert sentence.endswith(
        "is full; free some space and run the same command again: everything finished so far is kept."
    )
    assert command.startswith("Continue with: meds run ")

    (small_disk / "ballast").unlink(missing_ok=True)
    assert mount("-o", "remount,size=64m", "meds-test", small_disk)
    project.run_well()
    assert project.json("run.json")["status"] == "done"
    if what == "home":
        assert project.computed().count("memory") == 1
    assert sorted(set(project.computed())) == sorted(STAGES)
    assert not list(project.root.rglob("*.tmp"))


def test_a_full_disk_leaves_the_same_results(finished: Any, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [finished.file(name).read_bytes() for name in REPORTS]
    monkeypatch.setenv("MEDS_HOME", str(small_disk / "home"))
    assert finished.run().code == 2
    assert mount("-o", "remount,size=64m", "meds-test", small_disk)
    finished.run_well()
    assert [finished.file(name).read_bytes() for name in REPORTS] == expected


def test_two_commands_on_one_run_at_once(finished: Any, meds_home: Path) -> None:
    expected = [finished.file(name).read_bytes() for name in REPORTS]
    meds_home.rename(meds_home.with_name("other"))
    runs = [start("run", finished.spec, "--runs-dir", finished.runs) for _ in range(2)]
    for run in runs:
        out, err = run.communicate()
        assert run.returncode == 0, err
        assert "Test images (percent)" in out
    assert [finished.file(name).read_bytes() for name in REPORTS] == expected
    assert finished.computed() == STAGES * 2
    assert len(list((meds_home / "store").glob("??/*"))) == len(STAGES)
    assert finished.json("run.json")["status"] == "done"


def test_two_commands_that_compute_the_same_at_once(project: Any, tiny_spec: dict[str, Any]) -> None:
    runs = []
    project.write(tiny_spec)
    for name in ("first", "second"):
        runs.append(start("run", project.spec, "--runs-dir", project.runs, "--set", f"name={name}"))
    for run in runs:
        _, err = run.communicate()
        assert run.returncode == 0, err
    for name in REPORTS:
        assert project.file(name, "first").read_bytes() == project.file(name, "second").read_bytes()
    assert sorted(project.computed("first") + project.computed("second")) == sorted(STAGES)
    assert sum(event["images"] for run in ("first", "second") for event in project.events("features", run)) == 32


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_full_memory_is_one_sentence(
    error: Exception, project: Any, tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any) -> None:
        raise error

    monkeypatch.setattr("meds.core.runner.Runner.run", fail)
    done = project.run(spec=tiny_spec)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert "the memory is full; take a smaller `batch_size`" in done.said
    assert "Continue with: meds run" in done.said


def test_another_error_of_torch_keeps_its_traceback(
    project: Any, tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("meds.core.runner.Runner.run", fail)
    done = project.run(spec=tiny_spec)
    assert done.code == 1
    assert "shapes do not fit" in done.err
