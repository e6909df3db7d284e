"""Mistakes of the user: exit code 2, one clear sentence, never a traceback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def images(folder: Path, count: int, side: int = 48) -> Path:
    """Random images, each with another content."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return folder


def of_folder(spec: dict[str, Any], path: Path, **options: str) -> dict[str, Any]:
    """The spec on a folder of images, without noise."""
    return {**spec, "dataset": {"type": "folder", "path": str(path), **options}, "noise": None}


def refused(done: Any, *sentences: str) -> None:
    """Assert that a command ended with 2 and one sentence that holds all the texts."""
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    spoken = [
        line
        for line in done.err.splitlines()
        if not line.startswith(("Continue with: ", "What was finished is kept. "))
    ]
    assert len(spoken) == 1
    assert spoken[0].startswith("meds: ")
    for sentence in sentences:
        assert sentence in spoken[0]


@pytest.mark.parametrize(
    ("override", "sentences"),
    [
        ("stages.distill.iteratoins=3", ["unknown key 'iteratoins' in `stages.1`; did you mean 'iterations'?"]),
        ("stages.distill.iterations=few", ["`stages.1.iterations`:", "'few'"]),
        ("student.type=rdd", ["unknown student 'rdd'; did you mean 'rd'?"]),
        ("dataset.classes=[weav]", ["`dataset.classes`: unknown class 'weav'; did you mean 'weave'?"]),
        ("device=cuda:99", ["`device: cuda:99` is not there on this machine; use `device: auto` or `cpu`."]),
        ("device=gpu", ["`device: gpu` is unknown; use auto, cpu, cuda or cuda:N."]),
        ("backbone.weights=/no/file.pth", ["`backbone`: weights has no place beside pretrained: false"]),
        ("backbone={type: efficientnet-lite0, weights: /no/such/file.pth}", ["/no/such/file.pth"]),
        (
            "stages=[{type: distill}]",
            ["the stage `distill` needs a result of kind 'memory-scores'", "put `{type: memory}` before it."],
        ),
        ("stages=[{type: fit}, {type: evaluate, ranking: memory}]", ["the stage `evaluate` needs", "'memory-scores'"]),
        ("stages=[{type: evaluate}, {type: memory}]", ["the stage `evaluate` needs a result of kind 'student' or"]),
        (
            "stages.select-finetune.minimum_selected=9",
            ["The class 'discs' has 10 training images, of which", "keep 4 at first", "minimum_s"],
        ),
        ("stages.select-finetune.rule={type: magic}", ["unknown selection rule 'magic'"]),
        ("noise={ratio: 3, shortage: error}", ["weave"]),
        ("name=a/b", ["`name`:", "'a/b'"]),
    ],
)
def test_a_mistake_in_the_spec(project: Any, tiny_spec: dict[str, Any], override: str, sentences: list[str]) -> None:
    refused(project.run("--set", override, spec=tiny_spec), *sentences)


def test_a_spec_that_is_not_there(project: Any) -> None:
    refused(project.run(), "there is no such spec file")


def test_a_folder_that_is_empty_or_missing(project: Any, tiny_spec: dict[str, Any]) -> None:
    refused(project.run(spec=of_folder(tiny_spec, project.root / "none")), str(project.root / "none"), "no such folder")
    (project.root / "empty").mkdir()
    refused(project.run(), "no such folder")
    refused(project.run(spec=of_folder(tiny_spec, project.root / "empty")), f"{project.root / 'empty'}: holds no image")


def test_a_folder_with_one_image(project: Any, tiny_spec: dict[str, Any]) -> None:
    folder = images(project.root / "one", 1)
    refused(project.run(spec=of_folder(tiny_spec, folder)), str(folder), "1 training image; meds compares")


def test_two_images_are_too_few_to_select_from(project: Any, tiny_spec: dict[str, Any]) -> None:
    folder = images(project.root / "two", 2)
    done = project.run(spec=of_folder(tiny_spec, folder))
    refused(done, "The class 'two' has 2 training images, of which the selection would keep 0 at first", "add images")


def test_the_stage_that_fails_is_told(project: Any, tiny_spec: dict[str, Any]) -> None:
    for number in range(6):
        (project.root / "equal").mkdir(exist_ok=True)
        Image.fromarray(np.full((64, 64), 99, np.uint8)).save(project.root / "equal" / f"{number}.png")
    refused(
        project.run(spec=of_folder(tiny_spec, project.root / "equal")), "of the 6 training images of the class 'equal'"
    )
    state = project.json("run.json")
    assert state["status"] == "failed"
    assert [stage["status"] for stage in state["stages"]] == ["done", "done", "failed", "waiting"]
    assert "class 'equal'" in state["error"]
    assert [event["stage"] for event in project.events("stage_failed")] == ["select-finetune"]


def test_a_class_that_is_too_small_is_found_before_anything_is_computed(
    project: Any, tiny_spec: dict[str, Any]
) -> None:
    tiny_spec["dataset"]["train"] = 4
    refused(
        project.run(spec={**tiny_spec, "noise": None}),
        "The class 'discs' has 4 training images, of which the selection would keep 1 at first, fewer than",
    )
    assert project.computed() == []


def test_a_holdout_that_leaves_too_little_is_found_before_anything_is_computed(
    project: Any, tiny_spec: dict[str, Any]
) -> None:
    tiny_spec["dataset"] |= {"train": 40, "classes": ["discs"]}
    sets = ("--set", "stages.select-finetune.holdout=0.95", "--set", "stages.select-finetune.minimum_selected=3")
    done = project.run(*sets, spec={**tiny_spec, "noise": None})
    refused(done, "40 training images, of which `holdout: 0.95` leaves 2", "lower `holdout`")
    assert project.computed() == []


def test_a_missing_checkpoint_is_found_before_any_feature_is_computed(project: Any, tiny_spec: dict[str, Any]) -> None:
    stages = [{"type": "fit", "iterations": 1, "batch_size": 4}, tiny_spec["stages"][-1]]
    student = {"type": "dinomaly", "depth": 2, "weights": "/no/such/file.pth"}
    refused(project.run(spec={**tiny_spec, "student": student, "stages": stages}), "/no/such/file.pth")
    assert project.events("features") == []


def test_equal_images_cannot_be_told_apart(project: Any, tiny_spec: dict[str, Any]) -> None:
    folder = images(project.root / "same", 1)
    for number in range(1, 6):
        (folder / f"{number:03}.png").write_bytes((folder / "000.png").read_bytes())
    refused(project.run(spec=of_folder(tiny_spec, folder)), "The selection keeps 0 of the 6", "equal scores")


@pytest.mark.parametrize("content", [b"", b"no image at all", None], ids=["empty", "text", "cut short"])
def test_a_corrupt_image_is_named_or_skipped_and_listed(
    project: Any, tiny_spec: dict[str, Any], content: bytes | None
) -> None:
    folder = images(project.root / "parts", 6)
    bad = folder / "003.png"
    bad.write_bytes(bad.read_bytes()[:900] if content is None else content)
    refused(project.run(spec=of_folder(tiny_spec, folder)), str(bad), "dataset.unreadable: skip")
    done = project.run_well("--set", "dataset.unreadable=skip")
    assert "1 unreadable image is left out (see unreadable.txt)." in done.said
    assert project.file("unreadable.txt").read_text() == f"{bad}\n"
    assert project.json("run.json")["unreadable"] == [str(bad)]
    assert len(project.rows("ranking.csv")) == 5
    bad.write_bytes(images(project.root / "more", 9).joinpath("008.png").read_bytes())
    project.run_well()
    assert not project.file("unreadable.txt").exists()
    assert len(project.rows("ranking.csv")) == 6


def test_the_list_of_unreadable_images_has_a_line_for_each(project: Any, tiny_spec: dict[str, Any]) -> None:
    folder = images(project.root / "parts", 6)
    (folder / "a\nb.png").write_bytes(b"")
    project.run("--until", "memory", "--set", "dataset.unreadable=skip", spec=of_folder(tiny_spec, folder))
    assert project.file("unreadable.txt").read_text() == rf"{folder}/a\nb.png" + "\n"


def labelled(root: Path) -> Path:
    """A folder with good and bad images and the masks of the bad ones."""
    images(root / "parts/good", 8)
    images(root / "parts/bad", 3)
    for path in (root / "parts/bad").iterdir():
        Image.fromarray(np.random.default_rng(9).integers(0, 255, (48, 48), dtype=np.uint8)).save(path)
    for path in (root / "parts/bad").iterdir():
        (root / "parts/masks").mkdir(exist_ok=True)
        Image.fromarray(np.eye(48, dtype=np.uint8) * 255).save(root / "parts/masks" / path.name)
    return root / "parts"


def test_a_mask_of_another_size(project: Any, tiny_spec: dict[str, Any]) -> None:
    folder = labelled(project.root)
    mask = folder / "masks/001.png"
    Image.new("L", (48, 40), 255).save(mask)
    spec = of_folder(tiny_spec, folder, normal="good", abnormal="bad", mask="masks")
    for choice in ("error", "skip"):
        done = project.run("--set", f"dataset.unreadable={choice}", spec=spec)
        refused(done, f"{mask}: the mask has 48x40 pixels, its image {folder / 'bad/001.png'} has 48x48")


@pytest.mark.parametrize("which", ["bad", "masks"])
def test_an_unreadable_defect_or_mask_is_skipped_too(project: Any, tiny_spec: dict[str, Any], which: str) -> None:
    folder = labelled(project.root)
    (folder / which / "001.png").write_bytes(b"nothing")
    spec = of_folder(tiny_spec, folder, normal="good", abnormal="bad", mask="masks")
    refused(project.run(spec=spec), str(folder / which / "001.png"), "dataset.unreadable: skip")
    project.run_well("--set", "dataset.unreadable=skip")
    assert project.file("unreadable.txt").read_text() == f"{folder / 'bad/001.png'}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--from", "distil"], "--from distil: the spec has no such stage; it has memory, distill, "),
        (["--until", "nothing"], "--until nothing: the spec has no such stage"),
        (["--from", "evaluate", "--until", "memory"], "--from evaluate comes after --until memory"),
        (["--from", "distill"], "The stage `memory` comes before `distill` and has no stored result"),
        (["--set", "nonsense"], "write an override as key.path=value"),
    ],
)
def test_a_mistake_in_the_command(project: Any, tiny_spec: dict[str, Any], arguments: list[str], sentence: str) -> None:
    refused(project.run(*arguments, spec=tiny_spec), sentence)
    assert not project.file("events.jsonl").exists() or project.computed() == []


@pytest.mark.parametrize("command", ["status", "evaluate"])
def test_a_run_that_is_not_there(project: Any, meds: Callable[..., Any], command: str) -> None:
    refused(meds(command, project.root / "none"), f"{project.root / 'none'}: there is no such file or folder.")
    refused(meds(command, project.root), "it has no run.json")
    (project.root / "run.json").write_text("{")
    refused(meds(command, project.root), "run.json is damaged", "run the spec again")


def test_evaluate_of_a_run_whose_results_were_removed(
    finished: Any, meds: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in finished.file("").rglob("*") if path.is_file()}
    # A run knows its home, and the precision that it was made in.
    monkeypatch.setenv("MEDS_HOME", str(finished.root / "another"))
    assert meds("evaluate", finished.file("")).code == 0
    memory = Path(finished.json("memory/artifact.json")["path"])
    memory.rename(memory.with_name("elsewhere"))
    again = {path: path.read_bytes() for path in before}
    refused(meds("evaluate", finished.file("")), "The stage `memory` comes before `evaluate` and has no stored result")
    assert {path: path.read_bytes() for path in before} == again
    assert again[finished.file("metrics.json")] == before[finished.file("metrics.json")]


def test_from_a_stage_whose_inputs_are_missing_changes_nothing(finished: Any) -> None:
    before = {path: path.read_bytes() for path in finished.file("").rglob("*") if path.is_file()}
    sentence = "The stage `memory` comes before `evaluate` and has no stored result"
    refused(finished.run("--from", "evaluate", "--set", "seed=9"), sentence)
    assert {path: path.read_bytes() for path in finished.file("").rglob("*") if path.is_file()} == before


def test_folders_that_cannot_be_written(
    project: Any, tiny_spec: dict[str, Any], meds: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.root / "file").write_text("")
    refused(meds("run", project.write(tiny_spec), "--runs-dir", project.root / "file"), str(project.root / "file"))
    monkeypatch.setenv("MEDS_HOME", str(project.root / "file"))
    refused(project.run(), str(project.root / "file"))


@pytest.mark.parametrize("folder", ["/proc/runs", "x" * 300])
def test_places_that_take_no_folder(folder: str, project: Any, tiny_spec: dict[str, Any], meds: Any) -> None:
    done = meds("run", project.write(tiny_spec), "--runs-dir", project.root / folder)
    refused(done, folder, "cannot be used", "choose another place")


def test_a_limit_that_is_no_number_or_too_small(
    project: Any, tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDS_CACHE_GIB", "much")
    refused(project.run(spec=tiny_spec), "MEDS_CACHE_GIB is 'much'; set it to a number of at least 0.")
    monkeypatch.setenv("MEDS_CACHE_GIB", "0.0001")
    refused(project.run(), "set MEDS_CACHE_GIB to a larger size")


def test_a_failure_prints_the_command_that_continues(project: Any, tiny_spec: dict[str, Any]) -> None:
    spec = of_folder(tiny_spec, images(project.root / "two", 2))
    done = project.run("--set", "seed=3", "--from", "memory", "--until", "evaluate", "--force", spec=spec)
    expected = f"meds run {project.spec} --set seed=3 --runs-dir {project.runs} --from memory --until evaluate --force"
    assert done.err.splitlines()[-1] == f"What was finished is kept. When this is mended: {expected}"
    assert done.err.startswith("meds: ")


def test_a_command_that_must_fail_again_is_not_printed(project: Any, tiny_spec: dict[str, Any]) -> None:
    done = project.run("--until", "nope", spec=tiny_spec)
    assert done.code == 2
    assert "Continue with" not in done.err


def test_a_mistake_in_a_process_of_its_own(project: Any, tiny_spec: dict[str, Any]) -> None:
    tiny_spec["sede"] = 1
    command = [sys.executable, "-m", "meds", "run", str(project.write(tiny_spec)), "--runs-dir", str(project.runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    line = len(project.spec.read_text().splitlines())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"meds: {project.spec}:{line}: unknown key 'sede'; did you mean 'seed'?\n"


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("top_fraction=0.07", "`top_fraction` of the stage `evaluate` has no effect without `image_score: top`"),
        ("image_score=own", "`image_score: own` is for detectors that score whole images"),
    ],
)
def test_options_of_evaluate_without_effect_are_refused_before_anything_is_trained(
    project: Any, tiny_spec: dict[str, Any], meds: Callable[..., Any], option: str, sentence: str
) -> None:
    setting = ("--set", f"stages.evaluate.{option}")
    refused(project.run(*setting, spec=tiny_spec), sentence)
    assert project.computed() == []
    refused(meds("plan", project.write(tiny_spec), *setting), sentence)
