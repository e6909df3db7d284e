"""The spec: sentences for every mistake with file, line and key; overrides, recipes and the resolved text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import create_model

from meds.core.errors import SpecError
from meds.core.hookspecs import hookimpl
from meds.core.registry import Options, Plugin, load_registry, registry
from meds.core.schema import spec_schema
from meds.core.spec import Spec, load_spec, resolve_spec
from meds.core.spec_source import parse_spec

GOOD = """\
name: tiny
dataset: {type: synthetic}
backbone: {type: efficientnet-lite0}
student:
  type: rd
stages:
  - {type: memory}
  - type: distill
    iterations: 4
  - {type: select-finetune}
  - {type: evaluate}
"""


def spec_of(text: str) -> Spec:
    return resolve_spec(parse_spec(text, "spec.yaml"), registry())


def changed(tmp_path: Path, *overrides: str, text: str = GOOD) -> Spec:
    (tmp_path / "spec.yaml").write_text(text)
    return load_spec(tmp_path / "spec.yaml", registry(), overrides)


def options(spec: Spec, stage: str) -> Any:
    return next(block.options for block in spec.stages if block.type == stage)


MISTAKES = {
    "unknown key": ("name: tiny", "name: tiny\nsede: 1", ["spec.yaml:2: unknown key 'sede'; did you mean 'seed'?"]),
    "unknown key inside": (
        "    iterations: 4",
        "    iteratoins: 4",
        ["spec.yaml:9: unknown key 'iteratoins' in `stages.1`; did you mean 'iterations'?"],
    ),
    "wrong type": ("    iterations: 4", "    iterations: four", ["spec.yaml:9: `stages.1.iterations`:", "'four'"]),
    "out of range": ("iterations: 4", "iterations: 0", ["spec.yaml:9: `stages.1.iterations`:", "given: 0"]),
    "wrong top type": ("name: tiny", "name: tiny\nseed: soon", ["spec.yaml:2: `seed`:", "'soon'"]),
    "block that is a word": ("student:\n  type: rd", "student: rd", ["spec.yaml:4: `student`:", "'rd'"]),
    "missing key": ("dataset: {type: synthetic}\n", "", ["spec.yaml: the key `dataset` is missing."]),
    "missing option": ("{type: synthetic}", "{type: folder}", ["spec.yaml:2: the key `dataset.path` is missing."]),
    "missing type": ("  type: rd", "  blocks: [1, 1, 1]", ["spec.yaml:4: `student` needs a `type:`", "rd"]),
    "unknown student": ("type: rd", "type: rdd", ["spec.yaml:5: unknown student 'rdd'; did you mean 'rd'?"]),
    "unknown stage": ("type: distill", "type: distil", ["spec.yaml:8: unknown stage 'distil'; did you mean 'distill'"]),
    "unknown dataset": ("synthetic", "sinthetic", ["spec.yaml:2: unknown dataset 'sinthetic'", "'synthetic'"]),
    "unknown rule": (
        "{type: select-finetune}",
        "{type: select-finetune, rule: {type: median}}",
        ["spec.yaml:10: unknown selection rule 'median'", "'median-mad'"],
    ),
    "unknown choice": ("type: distill", "type: distill\n    loss: l3", ["spec.yaml:9: `stages.1.loss`:", "'l3'"]),
    "banks of a memory without banks": (
        "{type: memory}",
        "{type: memory, banks: 5}",
        ["spec.yaml:7: `stages.0`:", "banks has no effect with `estimator: exact`"],
    ),
    "duplicate key": ("name: tiny", "name: tiny\nname: other", ["spec.yaml:2: the key `name` stands twice"]),
    "list in itself": ("type: rd", "type: &a [*a]", ["spec.yaml: lists and mappings lie too deep in each other"]),
    "bad YAML": ("  type: rd", "  type: [rd", ["spec.yaml:", "not valid YAML"]),
    "no stages": (GOOD[GOOD.index("stages:") :], "stages: []\n", ["spec.yaml:6: `stages`:"]),
    "name that is a path": ("name: tiny", "name: ../tiny", ["spec.yaml:1: `name`:", "'../tiny'"]),
    "stage name that is a path": (
        "{type: memory}",
        "{type: memory, name: ../x}",
        ["spec.yaml:7: `stages.0.name`:", "'../x'"],
    ),
    "stage name of old reports": ("{type: memory}", "{type: memory, name: earlier}", ["is not 'earlier', where old"]),
    "two stages of one name": ("{type: evaluate}", "{type: memory}", ["spec.yaml:6: two stages are called `memory`"]),
}


@pytest.mark.parametrize(("old", "new", "sentences"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_names_line_and_key(old: str, new: str, sentences: list[str]) -> None:
    assert old in GOOD
    with pytest.raises(SpecError) as caught:
        spec_of(GOOD.replace(old, new))
    assert len(str(caught.value).splitlines()) == 1
    for sentence in sentences:
        assert sentence in str(caught.value)


def test_bad_yaml_names_the_line_of_the_problem() -> None:
    with pytest.raises(SpecError, match=r"spec\.yaml:2: not valid YAML"):
        spec_of("name: tiny\nstudent: {type: rd}}\n")


def test_several_mistakes_are_all_reported() -> None:
    with pytest.raises(SpecError) as caught:
        spec_of(GOOD.replace("type: rd", "type: rdd").replace("iterations: 4", "iterations: x"))
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == ["spec.yaml:5", "spec.yaml:9"]


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n"])
def test_spec_that_is_no_mapping(text: str) -> None:
    with pytest.raises(SpecError, match=r"spec\.yaml: a spec is a mapping"):
        spec_of(text)


def test_an_unknown_key_is_named_within_its_block_whatever_the_file_is_called() -> None:
    source = parse_spec(GOOD.replace("type: rd", "type: rd\n  blokcs: 3"), "o';s.yaml")
    sentence = r"^o';s\.yaml:\d+: unknown key 'blokcs' in `student`; did you mean 'blocks'\?$"
    with pytest.raises(SpecError, match=sentence):
        resolve_spec(source, registry())


def test_spec_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no such spec file"):
        load_spec(tmp_path / "none.yaml", registry())
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(SpecError, match="cannot be read"):
        load_spec(tmp_path / "bytes.yaml", registry())
    (tmp_path / "zero.yaml").write_bytes(b"name: a\nstages: \x00\n")
    with pytest.raises(SpecError, match=r"zero\.yaml:2: not valid YAML: it holds the character U\+0000[^\n]*\.$"):
        load_spec(tmp_path / "zero.yaml", registry())


def test_a_folder_in_place_of_a_spec(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"is a folder, and a spec is a file; `meds init .*` writes a spec"):
        load_spec(tmp_path, registry())
    (tmp_path / "spec.yaml").touch()
    with pytest.raises(SpecError, match=r"is a folder, and a spec is a file; its spec is .*spec\.yaml\."):
        load_spec(tmp_path, registry())


def test_two_stages_of_one_type_need_a_name_each() -> None:
    spec = spec_of(GOOD.replace("{type: evaluate}", "{type: memory, name: again}"))
    assert [stage.name for stage in spec.stages] == ["memory", "distill", "select-finetune", "again"]


def test_set_changes_scalars_and_nested_keys(tmp_path: Path) -> None:
    spec = changed(tmp_path, "seed=7", "student.blocks=[1, 2, 1]", "noise.ratio=0.2", "backbone.pretrained=false")
    assert spec.seed == 7
    assert spec.student.options.model_dump()["blocks"] == (1, 2, 1)
    assert spec.noise is not None
    assert spec.noise.options.model_dump()["ratio"] == 0.2
    assert spec.backbone.options.model_dump()["pretrained"] is False


@pytest.mark.parametrize("key", ["stages.distill", "stages.1", "stages.-3"])
def test_set_finds_a_stage_by_type_and_by_position(tmp_path: Path, key: str) -> None:
    spec = changed(tmp_path, f"{key}.iterations=9")
    assert options(spec, "distill").iterations == 9
    assert options(spec, "memory") == options(changed(tmp_path), "memory")


def test_set_finds_a_stage_by_name(tmp_path: Path) -> None:
    text = GOOD.replace("{type: evaluate}", "{type: memory, name: again}")
    spec = changed(tmp_path, "stages.again.ratio=0.5", text=text)
    assert [stage.options.model_dump().get("ratio") for stage in spec.stages] == [0.1, None, None, 0.5]


def test_set_replaces_whole_blocks_and_lists(tmp_path: Path) -> None:
    spec = changed(tmp_path, "stages=[{type: fit, iterations: 3}]", "dataset={type: folder, path: here}")
    assert [stage.type for stage in spec.stages] == ["fit"]
    assert spec.dataset.type == "folder"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seed", "--set seed: write an override as key.path=value"),
        ("=3", "--set =3: write an override as key.path=value"),
        ("seed=[1", "the value is not valid YAML"),
        ("seed.deep=1", "`seed` is a value and has no key `deep`|unknown key"),
        ("name.deep=1", "`name` is a value and has no key `deep`"),
        ("stages.memry.ratio=1", "the stage `memry` is not there"),
        ("stages.9.ratio=1", "the stage `9` is not there"),
        ("sede=1", "--set sede=1: unknown key 'sede'; did you mean 'seed'?"),
        ("stages.memory.ratio=2", "--set stages.memory.ratio=2: `stages.0.ratio`:"),
        ("student.type=rdd", "--set student.type=rdd: unknown student 'rdd'"),
    ],
)
def test_bad_override(tmp_path: Path, override: str, sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        changed(tmp_path, override, text=GOOD + "seed: 1\n")
    assert any(part in str(caught.value) for part in sentence.split("|"))
    assert len(str(caught.value).splitlines()) == 1


def test_set_refuses_a_stage_type_that_is_there_twice(tmp_path: Path) -> None:
    text = GOOD.replace("{type: evaluate}", "{type: memory, name: again}")
    with pytest.raises(SpecError, match="`memory` is there more than once; use its position"):
        changed(tmp_path, "stages.memory.ratio=0.5", text=text)


RECIPES = [
    ("memory", "distance", "euclidean", "cosine"),
    ("memory", "features", "targets", "final"),
    ("memory", "estimator", "bootstrap", "bootstrap"),
    ("memory", "replacement", False, True),
    ("memory", "bank_size", "round", "ceil"),
    ("memory", "self_match", False, True),
    ("distill", "loss", "l2-norm", "mse"),
    ("distill", "loss_weight", 1.0, 10.0),
    ("distill", "iterations", 500, 10_000),
    ("select-finetune", "rounding", "ceil", "floor"),
    ("select-finetune", "critical_value", 1.0, 3.0),
    ("select-finetune", "drop_last", None, True),
    ("select-finetune", "rule", {"type": "median-mad", "median": "middle"}, {"type": "median-mad", "median": "lower"}),
]


@pytest.mark.parametrize(("stage", "key", "paper", "released"), RECIPES, ids=[f"{r[0]}-{r[1]}" for r in RECIPES])
def test_recipe_sets_a_point_where_paper_and_code_differ(stage: str, key: str, paper: object, released: object) -> None:
    plain = GOOD.replace("    iterations: 4\n", "")
    assert getattr(options(spec_of(f"recipe: paper\n{plain}"), stage), key) == paper
    assert getattr(options(spec_of(f"recipe: released\n{plain}"), stage), key) == released


def test_a_student_s_own_scripts_come_before_the_stage_s_recipe() -> None:
    plain = GOOD.replace("    iterations: 4\n", "").replace("type: rd", "type: inp-former")
    released, paper = spec_of(f"recipe: released\n{plain}"), spec_of(f"recipe: paper\n{plain}")
    distill, finetune = options(released, "distill"), options(released, "select-finetune")
    assert (distill.loss, distill.loss_weight, distill.iterations) == ("l1", 10.0, 10_000)
    assert (finetune.critical_value, finetune.iterations, finetune.rounding) == (1.0, 10_000, "floor")
    assert (options(paper, "distill").loss, options(paper, "select-finetune").iterations) == ("l2-norm", None)
    written = plain.replace("{type: select-finetune}", "{type: select-finetune, critical_value: 2}")
    assert options(spec_of(f"recipe: released\n{written}"), "select-finetune").critical_value == 2


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_explicit_values_win_over_the_recipe(recipe: str) -> None:
    text = GOOD.replace("{type: memory}", "{type: memory, distance: cosine, estimator: exact}")
    spec = spec_of(f"recipe: {recipe}\n{text}")
    assert options(spec, "memory").distance == "cosine"
    assert options(spec, "memory").estimator == "exact"
    assert options(spec, "distill").iterations == 4


@pytest.mark.parametrize("recipe", ["null", "paper", "released"])
def test_resolved_spec_read_again_is_equal(recipe: str) -> None:
    text = GOOD.replace("{type: evaluate}", "{type: evaluate, name: figures}")
    spec = spec_of(f"recipe: {recipe}\nnoise: {{ratio: 0.1}}\n{text}")
    again = spec_of(spec.to_yaml())
    assert again == spec
    assert again.to_yaml() == spec.to_yaml()


def test_resolved_spec_has_every_default() -> None:
    data = yaml.safe_load(spec_of(GOOD).to_yaml())
    assert (data["seed"], data["classes"], data["device"], data["noise"]) == (0, "unified", "auto", None)
    for block in (data["dataset"], data["backbone"], data["student"], *data["stages"]):
        kind = {"synthetic": "dataset", "efficientnet-lite0": "backbone", "rd": "student"}.get(block["type"], "stage")
        model = registry().get(kind, block["type"]).plugin.options
        assert set(block) == {"type", *model.model_fields}


def test_schema_holds_every_plugin_and_key() -> None:
    schema = spec_schema(registry())
    text = yaml.safe_dump(schema)
    assert set(schema["properties"]) == set(yaml.safe_load(spec_of(GOOD).to_yaml()))
    for registration in registry().all():
        assert f"const: {registration.plugin.name}\n" in text
        for field in registration.plugin.options.model_fields:
            assert f"{field}:\n" in text


def test_models_of_one_name_inside_two_plugins_stay_apart() -> None:
    def options(name: str, field: str) -> type[Options]:
        inner = create_model("Inner", __base__=Options, **{field: (int, 1)})  # type: ignore[call-overload]
        return create_model(name, __base__=Options, inner=(inner, inner()))  # type: ignore[call-overload,no-any-return]

    class Module:
        @staticmethod
        @hookimpl
        def meds_loggers() -> list[Plugin]:
            kinds = {"one": options("One", "first"), "two": options("Two", "second")}
            return [Plugin(name, kind, "a:B", "A logger.") for name, kind in kinds.items()]

    found = load_registry()
    found.register_module(Module(), "others", "1.0")
    definitions = spec_schema(found)["$defs"]
    assert set(definitions["logger-one-Inner"]["properties"]) == {"first"}
    assert set(definitions["logger-two-Inner"]["properties"]) == {"second"}
