"""A whole run: every file of the run directory, and nothing computed twice."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY

from meds.core import extract
from meds.core.registry import registry
from meds.core.runtime import Runtime
from meds.core.spec import load_spec

STAGES = ["memory", "distill", "select-finetune", "evaluate"]
FIGURES = {"image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "pixel_f1max", "pixel_aupro"}


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all batches that an encoder sees."""
    sizes: list[int] = []
    original = extract.encode

    def counting(backbone: Any, images: Any, *others: Any) -> Any:
        sizes.append(len(images))
        return original(backbone, images, *others)

    monkeypatch.setattr(extract, "encode", counting)
    return sizes


def described() -> str:
    """The device of the tiny spec as a run writes it down."""
    return Runtime(TINY["device"], TINY["precision"], TINY["threads"]).describe()


def times(project: Any, *stages: str) -> list[int]:
    """When the artifacts of the stages were written, in nanoseconds."""
    pointers = [project.json(f"{stage}/artifact.json") for stage in stages]
    return [(Path(pointer["path"]) / "manifest.json").stat().st_mtime_ns for pointer in pointers]


def test_run_directory_holds_every_file(finished: Any) -> None:
    names = {path.name for path in finished.file("").iterdir()} - {".lock"}
    reports = {"metrics.json", "predictions.csv", "ranking.csv", "selection.csv"}
    assert names == {"spec.yaml", "run.json", "data.csv", "events.jsonl", *reports, *STAGES}
    assert not list(finished.root.rglob("*.tmp"))


def test_spec_of_the_run_is_resolved_and_runs_again(finished: Any, meds: Callable[..., Any]) -> None:
    path = finished.file("spec.yaml")
    assert load_spec(path, registry()) == load_spec(finished.spec, registry())
    assert yaml.safe_load(path.read_text())["stages"][0]["estimator"] == "exact"
    assert meds("run", path, "--runs-dir", finished.runs).code == 0
    assert finished.computed() == STAGES


def test_run_json_tells_state_cost_and_versions(finished: Any) -> None:
    state = finished.json("run.json")
    assert (state["status"], state["seed"], state["device"]) == ("done", 0, described())
    assert {"python", "torch", "meds-ad"} <= set(state["versions"])
    assert [stage["name"] for stage in state["stages"]] == STAGES
    for stage in state["stages"]:
        assert set(stage) == {"name", "type", "fingerprint", "status", "artifact", "cost"}
        assert stage["status"] == "done"
        assert set(stage["cost"]) == {"wall_s", "cpu_s", "peak_rss_mib", "peak_gpu_mib", "bytes"}
        assert stage["cost"]["peak_rss_mib"] > 0
        assert stage["cost"]["bytes"] > 0


def test_pointers_name_the_artifacts_in_the_store(finished: Any) -> None:
    kinds = ["memory-scores", "distilled-student", "student", "evaluation"]
    for stage, kind, state in zip(STAGES, kinds, finished.json("run.json")["stages"], strict=True):
        pointer = finished.json(f"{stage}/artifact.json")
        assert pointer == {"fingerprint": state["fingerprint"], "path": state["artifact"], "kind": kind}
        assert state["artifact"].endswith(f"/store/{state['fingerprint'][:2]}/{state['fingerprint']}")


def test_manifest_tells_where_an_artifact_comes_from(finished: Any) -> None:
    memory, distill = (finished.json(f"{stage}/artifact.json") for stage in ("memory", "distill"))
    manifest = json.loads(
        (finished.root / "home/store" / Path(*Path(distill["path"]).parts[-2:], "manifest.json")).read_text()
    )
    assert manifest["inputs"] == {"memory-scores": memory["fingerprint"]}
    assert manifest["stage"]["iterations"] == 4
    assert manifest["plugin"] == {"name": "distill", "package": "meds-ad"}
    assert set(manifest["files"]) == {"student.safetensors"}
    assert (manifest["seed"], manifest["device"]) == (0, described())


def test_data_csv_lists_every_image(finished: Any) -> None:
    rows = finished.rows("data.csv")
    assert list(rows[0]) == ["path", "sha256", "class", "split", "label", "defect", "mask", "mask_sha256", "injected"]
    train, test = ([row for row in rows if row["split"] == split] for split in ("train", "test"))
    assert (len(train), len(test)) == (20, 16)
    injected = [row for row in train if row["injected"] == "1"]
    assert len(injected) == 4
    assert {row["path"] for row in injected} <= {row["path"] for row in test if row["label"] == "1"}
    assert all(bool(row["mask"]) == (row["label"] == "1") for row in rows)


def test_metrics_of_classes_mean_and_noise(finished: Any) -> None:
    metrics = finished.json("metrics.json")
    assert {"classes", "mean", "noise"} <= set(metrics)
    assert set(metrics["classes"]) == {"weave", "discs"}
    for key in FIGURES:
        values = [row[key] for row in metrics["classes"].values()]
        assert all(0 <= value <= 1 for value in values)
        assert metrics["mean"][key] == pytest.approx(sum(values) / 2)
    assert set(metrics["mean"]) == FIGURES
    assert metrics["noise"]["total"]["ratio_of_normal"] == 0.25


def test_predictions_follow_scores_and_thresholds(finished: Any) -> None:
    rows = finished.rows("predictions.csv")
    assert list(rows[0]) == ["path", "class", "label", "score", "threshold", "decision"]
    assert [row["path"] for row in rows] == [r["path"] for r in finished.rows("data.csv") if r["split"] == "test"]
    for row in rows:
        assert row["decision"] == ("anomalous" if float(row["score"]) > float(row["threshold"]) else "normal")
    assert {row["label"] for row in rows} == {"0", "1"}


def test_ranking_goes_from_most_to_least_suspicious(finished: Any) -> None:
    rows = finished.rows("ranking.csv")
    assert list(rows[0]) == ["rank", "path", "class", "score", "selected", "injected"]
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, 21)]
    for name in ("weave", "discs"):
        scores = [float(row["score"]) for row in rows if row["class"] == name]
        assert scores == sorted(scores, reverse=True)
    assert sum(row["injected"] == "1" for row in rows) == 4
    last = finished.rows("selection.csv")[-2:]
    assert sum(row["selected"] == "1" for row in rows) == sum(int(row["selected"]) for row in last)


def test_selection_has_a_row_for_each_epoch_and_class(finished: Any) -> None:
    rows = finished.rows("selection.csv")
    columns = [
        "iteration",
        "epoch",
        "class",
        "selected",
        "total",
        "threshold",
        "alpha",
        "k",
        "scored",
        "injected_selected",
    ]
    assert list(rows[0]) == columns
    assert [row["class"] for row in rows] == ["discs", "weave"] * (len(rows) // 2)
    for row in rows:
        time = int(row["iteration"]) / 6
        assert float(row["alpha"]) == pytest.approx(min(2 * time, 1))
        assert float(row["k"]) == pytest.approx(time)
        assert row["scored"] == str(int(time > 0))
        assert 0 <= int(row["injected_selected"]) <= min(2, int(row["selected"]))
        assert int(row["selected"]) < int(row["total"]) == 10
    assert [event["selected"] for event in finished.events("epoch")] == [int(row["selected"]) for row in rows]


def test_events_tell_every_stage(finished: Any) -> None:
    lines = finished.file("events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert all({"time", "event"} <= set(event) for event in events)
    assert (events[0]["event"], events[-1]["event"]) == ("run_started", "run_finished")
    for kind in ("before_stage", "artifact_saved", "after_stage"):
        assert [event["stage"] for event in finished.events(kind)] == STAGES


def test_running_again_computes_nothing_and_says_the_same(finished: Any, encoded: list[int]) -> None:
    reports = {path: path.read_bytes() for path in finished.file("").glob("*.csv")}
    before = times(finished, *STAGES)
    metrics = finished.file("metrics.json").read_bytes()
    again = finished.run_well()
    assert "Test images (percent)" in again.out
    assert finished.computed() == STAGES
    assert encoded == []
    assert times(finished, *STAGES) == before
    assert finished.file("metrics.json").read_bytes() == metrics
    assert {path: path.read_bytes() for path in reports} == reports


def test_another_k_uses_memory_and_distillation_again(finished: Any, encoded: list[int]) -> None:
    before = times(finished, "memory", "distill")
    finished.run_well("--set", "stages.select-finetune.critical_value=2.5")
    assert finished.computed() == [*STAGES, "select-finetune", "evaluate"]
    assert times(finished, "memory", "distill") == before
    for row in finished.rows("selection.csv"):
        assert float(row["k"]) == pytest.approx(2.5 * int(row["iteration"]) / 6)
    assert encoded == []


def test_the_encoder_sees_every_image_once(project: Any, tiny_spec: dict[str, Any], encoded: list[int]) -> None:
    project.run_well("--until", "memory", spec=tiny_spec)
    assert sum(encoded) == len({row["sha256"] for row in project.rows("data.csv")}) == 32
    tiny_spec["dataset"]["train"] += 1
    tiny_spec["noise"] = None
    project.run_well("--until", "memory", "--set", "name=more", spec=tiny_spec)
    assert sum(encoded) == 32 + 2


def test_two_homes_give_the_same_results(finished: Any, tiny_spec: dict[str, Any], meds_home: Path) -> None:
    names = ("metrics.json", "predictions.csv", "ranking.csv", "selection.csv")
    first = [finished.file(name).read_bytes() for name in names]
    meds_home.rename(meds_home.with_name("other"))
    finished.run_well()
    assert finished.computed() == STAGES * 2
    assert [finished.file(name).read_bytes() for name in names] == first


def test_until_stops_and_the_same_command_without_it_goes_on(project: Any, tiny_spec: dict[str, Any]) -> None:
    project.run_well("--until", "distill", spec=tiny_spec)
    assert project.computed() == ["memory", "distill"]
    state = project.json("run.json")
    assert state["status"] == "partly done"
    assert [stage["status"] for stage in state["stages"]] == ["done", "done", "waiting", "waiting"]
    project.run_well()
    assert project.computed() == STAGES
    assert project.json("run.json")["status"] == "done"


def test_from_and_force_compute_the_wanted_stages_only(finished: Any) -> None:
    finished.run_well("--from", "select-finetune")
    assert finished.computed() == STAGES
    metrics = finished.json("metrics.json")
    finished.run_well("--from", "select-finetune", "--force")
    assert finished.computed() == [*STAGES, "select-finetune", "evaluate"]
    finished.run_well("--until", "memory", "--force")
    assert finished.computed() == [*STAGES, "select-finetune", "evaluate", "memory"]
    assert finished.json("metrics.json") == metrics


def test_until_and_force_leave_the_later_stages_to_be_done_again(finished: Any) -> None:
    finished.run_well("--until", "memory", "--force")
    state = finished.json("run.json")
    assert [row["status"] for row in state["stages"]] == ["done", "waiting", "waiting", "waiting"]
    assert state["status"] == "partly done"


def test_only_the_stages_that_are_wanted_are_checked(project: Any, tiny_spec: dict[str, Any]) -> None:
    tiny_spec["stages"][2]["minimum_selected"] = 50
    project.run_well("--until", "memory", spec=tiny_spec)
    done = project.run()
    assert (done.code, "`minimum_selected: 50`" in done.said) == (2, True)
    assert project.computed() == ["memory"]


def test_features_are_made_once_before_the_first_stage(finished: Any) -> None:
    (event,) = finished.events("features")
    images = len({row["sha256"] for row in finished.rows("data.csv")})
    assert event["images"] == images
    assert finished.json("run.json")["features"]["images"] == images


def test_a_damaged_artifact_is_named_and_computed_again(finished: Any) -> None:
    finished.run_well()
    metrics = finished.file("metrics.json").read_bytes()
    scores = Path(finished.json("memory/artifact.json")["path"]) / "scores.safetensors"
    whole = scores.read_bytes()
    scores.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    done = finished.run_well()
    assert f"{scores} is damaged" in done.said
    assert "The stage `memory` is computed again." in done.said
    assert finished.computed() == [*STAGES, "memory"]
    assert scores.read_bytes() == whole
    assert finished.file("metrics.json").read_bytes() == metrics


def test_reports_of_another_spec_are_put_away(finished: Any) -> None:
    kept = ("spec.yaml", "data.csv", "metrics.json", "predictions.csv", "ranking.csv", "selection.csv")
    before = {name: finished.file(name).read_bytes() for name in kept}
    finished.run_well("--set", "stages=[{type: memory}, {type: distill, iterations: 4, batch_size: 4}]")
    names = {path.name for path in finished.file("").iterdir()} - {".lock"}
    assert names == {"spec.yaml", "run.json", "data.csv", "events.jsonl", "memory", "distill", "earlier"}
    earlier = finished.file("earlier")
    assert {path.name: path.read_bytes() for path in earlier.iterdir()} == before
    finished.run_well("--set", "seed=5", "--until", "memory")
    assert {path.name: path.read_bytes() for path in earlier.iterdir()} == before, "nothing took their place"


def test_a_command_leaves_the_handlers_of_signals_as_they_were(meds: Callable[..., Any]) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    assert [meds(command).code for command in ("--version", "nonsense")] == [0, 2]
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_run_that_fails_keeps_the_reports_before_it(finished: Any, project: Any, tiny_spec: dict[str, Any]) -> None:
    metrics = finished.file("metrics.json").read_bytes()
    folder = project.root / "images"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(b"damaged")
    done = finished.run("--set", f"dataset={{type: folder, path: {folder}}}", "--set", "noise=null")
    assert done.code == 2
    assert finished.file("earlier/metrics.json").read_bytes() == metrics
