"""`meds compare`: which runs it makes of a spec, what stands in the rows, and its sentences."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit_cases import registry_with

from meds.cli.compare import compare_specs, show_rows
from meds.comparison.cases import AS_WRITTEN, cases, spec_of
from meds.comparison.caveats import OTHER_DATA, caveats
from meds.comparison.methods import METHODS
from meds.comparison.rows import Row
from meds.core.errors import SpecError, UserError
from meds.core.registry import registry
from meds.core.spec_source import SpecSource, parse_spec
from meds.testing.plain_models import PlainDetector


def source(spec: dict[str, Any], name: str = "spec.yaml") -> SpecSource:
    return parse_spec(yaml.safe_dump(spec, sort_keys=False), name)


def stage_lists(spec: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The resolved stages of every method of a spec."""
    return {case.method: spec_of(case, registry()).dump()["stages"] for case in cases([source(spec)])}


def test_the_four_methods_are_the_parts_of_the_spec(tiny_spec: dict[str, Any]) -> None:
    lists = stage_lists(tiny_spec)
    types = {method: [stage["type"] for stage in stages] for method, stages in lists.items()}
    assert types == {
        "plain": ["fit", "evaluate"],
        "memory": ["memory", "evaluate"],
        "distilled": ["memory", "distill", "evaluate"],
        "full": ["memory", "distill", "select-finetune", "evaluate"],
    }
    whole = lists["full"]
    assert lists["distilled"] == [*whole[:2], whole[3]]
    assert lists["memory"] == [whole[0], whole[3]]
    assert lists["plain"][1] == whole[3]


def test_the_plain_student_trains_as_long_and_measures_alike(tiny_spec: dict[str, Any]) -> None:
    tiny_spec["stages"][0]["distance"] = "euclidean"
    tiny_spec["stages"][2] |= {"holdout": 0.2}
    fit = stage_lists(tiny_spec)["plain"][0]
    assert (fit["iterations"], fit["batch_size"], fit["holdout"], fit["distance"]) == (6, 4, 0.2, "euclidean")


def test_the_plain_student_sees_as_much_of_an_epoch(tiny_spec: dict[str, Any]) -> None:
    def dropped(**finetune: Any) -> Any:
        changed = {**tiny_spec["stages"][2], **finetune}
        stages = [*tiny_spec["stages"][:2], changed, tiny_spec["stages"][3]]
        lists = stage_lists({**tiny_spec, "stages": stages})
        assert lists["plain"][0]["drop_last"] == lists["full"][2]["drop_last"]
        return lists["plain"][0]["drop_last"]

    assert dropped() is True
    assert dropped(drop_last=False) is False
    assert dropped(drop_last=None) is None
    tiny_spec["recipe"] = "paper"
    assert dropped() is None


def test_a_rest_of_one_image_does_not_stop_the_plain_student(
    tiny_spec: dict[str, Any], project: Any, meds: Callable[..., Any]
) -> None:
    tiny_spec["noise"] = None
    tiny_spec["dataset"] |= {"classes": ["weave"], "train": 9}
    tiny_spec["backbone"]["image_size"] = 32
    tiny_spec["stages"][2]["holdout"] = 0
    arguments = ("compare", project.write(tiny_spec), "--methods", "plain", "--runs-dir", project.runs)
    done = meds(*arguments, "--set", "stages.select-finetune.drop_last=false")
    assert "use a larger image_size or batch_size, or `drop_last: true` in the stage" in done.said
    done = meds(*arguments)
    assert done.code == 0, done.err


def test_a_detector_is_not_asked_to_drop_anything(tiny_spec: dict[str, Any]) -> None:
    tiny_spec["student"] = {"type": "broken"}
    (case,) = cases([source(tiny_spec)], methods=["plain"])
    fit = spec_of(case, registry_with("student", PlainDetector)).stages[0]
    assert fit.options.model_dump()["drop_last"] is None


def test_the_plain_student_has_no_memory_that_could_rank(tiny_spec: dict[str, Any]) -> None:
    tiny_spec["stages"][-1]["ranking"] = "memory"
    specs = {case.method: spec_of(case, registry()) for case in cases([source(tiny_spec)])}
    ranking = {method: spec.stages[-1].options.ranking for method, spec in specs.items()}
    assert ranking == {"plain": "student", "memory": "memory", "distilled": "memory", "full": "memory"}


def test_values_for_selecting_students_are_not_the_plain_student_s(tiny_spec: dict[str, Any]) -> None:
    tiny_spec["student"] = {"type": "dinomaly"}
    rates = {case.method: spec_of(case, registry()).student.options.discard_rate for case in cases([source(tiny_spec)])}
    assert (rates["plain"], rates["full"]) == (0.9, 0.5)


def test_ratios_and_seeds_set_the_noise_and_every_random_choice(tiny_spec: dict[str, Any]) -> None:
    found = cases([source(tiny_spec)], [0.0, 0.5], [3, 4], ["full"])
    specs = {case.name: spec_of(case, registry()) for case in found}
    assert list(specs) == [
        "tiny-full-noise-0-seed-3",
        "tiny-full-noise-0.5-seed-3",
        "tiny-full-noise-0-seed-4",
        "tiny-full-noise-0.5-seed-4",
    ]
    assert all(spec.name == name for name, spec in specs.items())
    assert specs["tiny-full-noise-0-seed-3"].noise is None
    contaminated = specs["tiny-full-noise-0.5-seed-4"]
    assert contaminated.noise is not None
    assert (contaminated.seed, contaminated.noise.options.ratio, contaminated.noise.options.seed) == (4, 0.5, 4)


def test_without_ratios_and_seeds_the_spec_s_own_are_taken(tiny_spec: dict[str, Any]) -> None:
    tiny_spec |= {"seed": 7}
    specs = {case.name: spec_of(case, registry()) for case in cases([source(tiny_spec)])}
    assert list(specs) == [f"tiny-{method}" for method in METHODS]
    assert all(spec.seed == 7 and spec.noise.options.ratio == 0.25 for spec in specs.values() if spec.noise)
    tiny_spec["noise"] = None
    assert all(spec_of(case, registry()).noise is None for case in cases([source(tiny_spec)]))


def test_a_spec_with_other_stages_runs_as_it_is_written(tiny_spec: dict[str, Any]) -> None:
    other = {**tiny_spec, "name": "other", "stages": [{"type": "fit"}, tiny_spec["stages"][-1]]}
    found = cases([source(tiny_spec), source(other)], [0.25])
    assert [case.method for case in found] == [*METHODS, AS_WRITTEN]
    assert found[-1].name == "other-noise-0.25"
    assert [stage.type for stage in spec_of(found[-1], registry()).stages] == ["fit", "evaluate"]
    with pytest.raises(UserError, match=r"other\.yaml: only a spec with the stages memory, distill, select-finetune"):
        cases([source(other, "other.yaml")], methods=["plain"])


def test_what_is_named_twice_runs_once(tiny_spec: dict[str, Any]) -> None:
    found = cases([source(tiny_spec)], [0.25, 0.250], [0, 0, 1], ["memory", "memory"])
    assert [case.name for case in found] == ["tiny-memory-noise-0.25-seed-0", "tiny-memory-noise-0.25-seed-1"]
    near = cases([source(tiny_spec)], [0.25, 0.2500001], None, ["memory"])
    assert len({case.name for case in near}) == 2


def test_two_runs_in_one_folder_are_refused(tiny_spec: dict[str, Any]) -> None:
    other = {**tiny_spec, "name": "tiny-plain", "stages": [{"type": "fit", "iterations": 2}, {"type": "evaluate"}]}
    with pytest.raises(UserError, match="two runs of this comparison would be called 'tiny-plain'"):
        cases([source(tiny_spec), source(other)])


def test_mistakes_are_sentences(tiny_spec: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"unknown method 'ful'; did you mean 'full'\?"):
        cases([source(tiny_spec)], methods=["ful"])
    with pytest.raises(UserError, match=r"Two specs are called 'tiny'; give one another `name`"):
        cases([source(tiny_spec), source(tiny_spec)])
    nameless = {key: value for key, value in tiny_spec.items() if key != "name"}
    with pytest.raises(SpecError, match=r"spec\.yaml: the key `name` is missing"):
        cases([source(nameless), source(nameless)])
    listed = {**tiny_spec, "noise": {"list": "images.csv"}}
    with pytest.raises(UserError, match=r"the noise protocol 'list' has no ratio; leave --ratios out"):
        spec_of(cases([source(listed)], [0.1])[0], registry())
    tiny_spec["stages"][1]["itertions"] = 3
    with pytest.raises(SpecError, match=r"spec\.yaml:\d+: unknown key 'itertions'"):
        spec_of(cases([source(tiny_spec)], methods=["plain"])[0], registry())


def test_the_command_runs_the_parts_and_prints_one_table(
    tiny_spec: dict[str, Any], project: Any, meds: Callable[..., Any], tmp_path: Path
) -> None:
    path = project.write(tiny_spec)
    done = meds("compare", path, "--methods", "full", "--seeds", "0,1", "--runs-dir", tmp_path / "runs")
    assert done.code == 0, done.err
    assert "2 of 2: " in done.out
    assert "Comparison (percent, means over 2 seeds)" in done.out
    again = meds("compare", path, "--methods", "full", "--seeds", "1", "--runs-dir", tmp_path / "runs", "--json")
    (row,) = json.loads(again.out)
    directory = tmp_path / "runs" / "tiny-full-seed-1"
    metrics = json.loads((directory / "metrics.json").read_text())
    assert row["image_auroc"] == metrics["mean"]["image_auroc"]
    assert (row["run"], row["method"], row["seed"], row["noise"]) == (str(directory), "full", 1, 0.25)
    events = [json.loads(line) for line in (directory / "events.jsonl").read_text().splitlines()]
    assert sum(event["event"] == "before_stage" for event in events) == 4
    last = {line.split(",")[2]: line.split(",") for line in (directory / "selection.csv").read_text().splitlines()[1:]}
    injected, selected = (sum(int(line[column]) for line in last.values()) for column in (9, 3))
    assert row["injected_selected"] == pytest.approx(injected / selected)


def test_a_failure_prints_the_command_that_continues(
    tiny_spec: dict[str, Any], project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A program that calls the command has arguments of its own.
    monkeypatch.setattr("meds.cli.compare._run", lambda *_, **__: 1 / 0)
    path = project.write(tiny_spec)
    with pytest.raises(ZeroDivisionError) as stopped:
        compare_specs([path], ["seed=3"], "0,0.4", None, "plain, full", project.runs, as_json=True)
    words = f"--ratios 0,0.4 --methods 'plain, full' --set seed=3 --runs-dir {project.runs} --json"
    assert stopped.value.__notes__ == [f"Continue with: meds compare {path} {words}"]


def row(noise: float = 0.4, **changes: Any) -> Row:
    fields = {
        "run": "r",
        "name": "r",
        "dataset": "{}",
        "seed": 0,
        "noise": noise,
        "seconds": 1.0,
        "figures": {"image_auroc": 0.9},
        "not_in_means": [],
        "not_in_pixel_means": [],
        "test_images": "a",
        "training_images": str(noise),
        "in_both_splits": 0,
        "leaked": 0,
        "spec": "s",
        "student": "rd",
        "method": "full",
        "ratio": noise,
    }
    return Row(**{**fields, **changes})


def test_what_keeps_rows_from_being_compared_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows([row(0.0), row(0.4)])
    assert "means" not in capsys.readouterr().out
    show_rows([row(0.0), row(0.4, not_in_means=["bolt"], test_images="b")])
    said = " ".join(capsys.readouterr().out.split())
    assert "Some means are without bolt: not both normal and defective images to test on." in said
    assert "Not all rows of one seed are measured on the same test images (with `overlap: false` the" in said


def test_specs_are_held_against_each_other_where_they_are_of_one_data_set() -> None:
    other = {"spec": "t", "test_images": "b", "training_images": "c"}
    tests, training = caveats([row(), row(**other)])
    assert tests.startswith("Not all rows of one seed are measured on the same test images: give their specs the same")
    assert training.startswith("Not all rows of one seed and noise ratio are trained on the same images")
    assert caveats([row(), row(**other, dataset="{1}")]) == [OTHER_DATA]
    assert caveats([row(), row(seed=1, training_images="c"), row(noise=0.2)]) == []


def test_classes_without_masks_and_images_in_both_splits_are_told() -> None:
    unmasked = {"not_in_pixel_means": ["bottle"]}
    assert caveats([row(**unmasked)]) == ["The mean of pixel figures is without bottle: no pixels of defects."]
    (said,) = caveats([row(), row(**unmasked)])
    assert said == "Some means of pixel figures are without bottle: no pixels of defects."
    (said,) = caveats([row(), row(leaked=3, in_both_splits=5)])
    assert said.startswith("Test images that are training images too, not by the noise but in the data set: up to 3.")
    assert caveats([row(in_both_splits=5)]) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--ratios", "half"), "--ratios half: give numbers of at least 0 separated by commas, for example 0,0.1,0.4."),
        (("--seeds", "0,-1"), "--seeds 0,-1: give numbers of at least 0 separated by commas, for example 0,1,2."),
        (("--methods", "palin"), "unknown method 'palin'; did you mean 'plain'?"),
    ],
)
def test_the_command_tells_mistakes(
    tiny_spec: dict[str, Any], project: Any, meds: Callable[..., Any], arguments: tuple[str, ...], sentence: str
) -> None:
    done = meds("compare", project.write(tiny_spec), *arguments)
    assert done.code == 2
    assert sentence in done.said


def test_what_the_last_run_cannot_work_with_is_told_before_the_first(
    tiny_spec: dict[str, Any], project: Any, meds: Callable[..., Any]
) -> None:
    tiny_spec["dataset"]["train"] = 2
    tiny_spec["stages"][2]["holdout"] = 0
    path = project.write(tiny_spec)
    done = meds("compare", path, "--methods", "plain,full", "--runs-dir", project.runs)
    assert done.code == 2
    assert "training images" in done.said
    assert not project.runs.exists()
    stages = [stage for stage in tiny_spec["stages"] if stage["type"] != "evaluate"]
    done = meds("compare", project.write({**tiny_spec, "stages": stages[:1]}), "--runs-dir", project.runs)
    assert (done.code, "there is nothing to compare without the stage evaluate" in done.said) == (2, True)
    assert not project.runs.exists()
