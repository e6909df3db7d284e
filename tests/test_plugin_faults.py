"""A plugin's entry that is not as it must be: its package is broken, in one sentence, and nothing else is harmed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from plugin_cases import distribution
from pydantic import BaseModel, ConfigDict, Field, field_validator

from meds.core.errors import PluginError, SpecError
from meds.core.hookspecs import hookimpl
from meds.core.registry import KINDS, Options, Plugin, Registry, load_registry, registry
from meds.core.schema import spec_schema
from meds.core.spec import resolve_spec
from meds.core.spec_source import parse_spec

GOOD: dict[str, Any] = {"name": "mine", "options": Options, "load": "nowhere.at_all:Mine", "summary": "For a test."}


class Plain(BaseModel):
    """No subclass of `Options`: a misspelt key would be ignored."""

    width: int = 1


class Lenient(Options):
    model_config = ConfigDict(extra="ignore")


class Undescribed(Options):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    where: SimpleNamespace | None = None


class Nested(Options):
    rule: dict[str, Any] = Field(default={}, json_schema_extra={"plugin": "selektion rule"})


class Width(Options):
    """One option that has a default and one that has none, the latter known by another name."""

    width: int = Field(default=1, ge=1)
    path: str = Field(alias="file")

    @field_validator("path")
    @classmethod
    def of_width(cls, path: str, info: Any) -> str:
        return f"{path}-{info.data['width']}"


def with_plugin(kind: str = "student", known: Registry | None = None, **fields: Any) -> Registry:
    """A registry with one plugin of a package `acme`."""
    found = known or Registry()
    entries = [Plugin(**{**GOOD, **fields})]
    found.register_module(SimpleNamespace(**{KINDS[kind]: hookimpl(lambda: entries)}), "acme", "1", "point")
    return found


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"name": 5}, "The student 5 cannot have this name; use small letters, digits and single hyphens, as in"),
        ({"name": "My Student"}, "The student 'My Student' cannot have this name; use small letters"),
        ({"name": ""}, "The student '' cannot have this name"),
        ({"name": "my_student"}, "'my_student' cannot have this name"),
        ({"name": "mine\n"}, "cannot have this name"),
        ({"name": "true"}, "The student 'true' cannot have this name, which a spec reads as True; choose a name that"),
        ({"name": "12"}, "which a spec reads as 12;"),
        ({"load": Plain}, "has <class 'test_plugin_faults.Plain'> as its `load`; it must be a text such as 'package."),
        ({"load": "nowhere"}, "has 'nowhere' as its `load`; it must be a text such as 'package.module:Class'."),
        ({"load": "nowhere:A.B"}, "has 'nowhere:A.B' as its `load`"),
        ({"load": "my-package:A"}, "has 'my-package:A' as its `load`"),
        ({"summary": None}, "has None as its `summary`; it must be a sentence that says what it is."),
        ({"summary": " "}, "has ' ' as its `summary`"),
        ({"version": 2}, "has 2 as its `version`; it must be a text such as '2'."),
        ({"options": None}, "has None as its `options`; it must be a subclass of `Options` of meds.api."),
        ({"options": Options()}, "has Options() as its `options`; it must be a subclass"),
        ({"options": Plain}, "has <class 'test_plugin_faults.Plain'> as its `options`; it must be a subclass of"),
        (
            {"options": Lenient},
            "has options that take unknown keys; leave 'extra' out of the `model_config` of",
        ),
        ({"options": Undescribed}, "has options that cannot be described (PydanticInvalidForJsonSchema: "),
        ({"options": Nested}, "has an option 'rule' for a plugin of the kind 'selektion rule', which cannot stand"),
        ({"selects": True}, "sets `selects`, which only a stage may have."),
        ({"without_type": "x"}, "sets `without_type`, which only a noise protocol may have."),
        ({"recipes": None}, "has None as its `recipes`; it must be a dictionary with an entry for each recipe."),
        ({"recipes": {"papre": {}}}, "has a mistake in `recipes`: unknown recipe 'papre'; did you mean 'paper'?"),
        ({"recipes": {"paper": 3}}, "in `recipes` for 'paper': 3 must be a dictionary of options and their values."),
        ({"recipes": {"paper": {"epochs": 3}}}, "in `recipes` for 'paper': unknown option 'epochs'; known: none."),
        ({"options": Width, "recipes": {"paper": {"widht": 3}}}, "unknown option 'widht'; did you mean 'width'?"),
        ({"options": Width, "recipes": {"paper": {"width": 0}}}, "'width' cannot be 0 (Input should be greater than"),
        ({"selecting": {"epochs": 3}}, "has a mistake in `selecting`: unknown option 'epochs'; known: none."),
        ({"selecting": []}, "has a mistake in `selecting`: [] must be a dictionary of options and their values."),
        ({"stage_recipes": {"papre": {}}}, "has a mistake in `stage_recipes`: unknown recipe 'papre'; did you mean"),
        ({"stage_recipes": {"paper": 3}}, "in `stage_recipes` for 'paper': 3 must be a dictionary by type of stage."),
    ],
)
def test_a_wrong_field_is_told_in_a_sentence(fields: dict[str, Any], sentence: str) -> None:
    found = with_plugin(**fields)
    (broken,) = found.broken
    assert found.all() == []
    assert sentence in broken.error
    assert broken.error.startswith("The student ")
    assert broken.error.endswith((".", "?"))
    assert len(broken.error.splitlines()) == 1


@pytest.mark.parametrize(
    ("kind", "fields", "sentence"),
    [
        ("stage", {"selecting": {"x": 1}}, "The stage 'mine' sets `selecting`, which only a student may have."),
        ("stage", {"selects": 1}, "has 1 as its `selects`; it must be True or False."),
        ("noise protocol", {"without_type": "width"}, "has 'width' as its `without_type`; it must be the name of one"),
    ],
)
def test_fields_of_other_kinds_are_checked(kind: str, fields: dict[str, Any], sentence: str) -> None:
    (broken,) = with_plugin(kind, **fields).broken
    assert sentence in broken.error


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"name": "3d-ad"},
        {"options": Width, "recipes": {"paper": {"width": 2}, "released": {"file": "x"}}},
        {"options": Width, "recipes": {"paper": {"width": 2}}, "selecting": {"width": 3}},
        {"stage_recipes": {"paper": {"distill": {"loss": "l1"}}}},
    ],
)
def test_what_is_right_is_taken(fields: dict[str, Any]) -> None:
    assert not with_plugin(**fields).broken


@pytest.mark.parametrize("fields", [{"name": 5}, {"load": Plain}, {"options": None}, {"options": Undescribed}])
def test_a_wrong_field_harms_nothing_else(fields: dict[str, Any]) -> None:
    found = with_plugin(known=load_registry(), **fields)
    assert spec_schema(found) == spec_schema(load_registry())
    assert not [item.plugin.name for item in found.all() if found.fault(item)]
    with pytest.raises(PluginError, match=r"unknown student 'rdd'; did you mean 'rd'\? Broken and left out: acme"):
        found.get("student", "rdd")


def test_commands_go_on_beside_a_wrong_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meds: Callable[..., Any]
) -> None:
    lines = ["from meds.api import Options, Plugin, hookimpl", "@hookimpl", "def meds_students():"]
    distribution(tmp_path, "acme", "acme_5", "\n".join([*lines, "    return [Plugin(5, None, Plugin, None)]", ""]))
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.cache_clear()
    shown, schema, doctor = meds("plugins"), meds("schema"), meds("doctor")
    registry.cache_clear()
    assert (shown.code, schema.code) == (0, 0)
    assert "broken: acme_5 of acme: The student 5 cannot have this name;" in shown.said
    assert "acme_5 of acme is broken: The student 5 cannot have this name;" in doctor.said


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        ({"distil": {}}, "in `stage_recipes` for 'paper' and the stage 'distil': unknown stage 'distil'; did you mean"),
        ({"distill": {"losss": "l1"}}, "and the stage 'distill': unknown option 'losss'; did you mean 'loss'?"),
        ({"distill": {"loss": "l3"}}, "and the stage 'distill': 'loss' cannot be 'l3' (Input should be "),
        ({"distill": 3}, "and the stage 'distill': 3 must be a dictionary of options and their values."),
    ],
)
def test_a_recipe_for_stages_is_blamed_on_the_plugin(
    stages: dict[str, Any], sentence: str, tiny_spec: dict[str, Any]
) -> None:
    found = with_plugin(known=load_registry(), stage_recipes={"paper": stages})
    fault = found.fault(found.get("student", "mine"))
    assert fault is not None
    assert "nowhere" in fault, "the missing module comes first"
    told = found.recipe_fault(found.get("student", "mine"))
    assert told is not None
    assert sentence in told
    assert told.startswith("the student 'mine' of acme has a mistake in `stage_recipes` for 'paper'")
    spec = {**tiny_spec, "student": {"type": "mine"}}
    assert resolve_spec(parse_spec(yaml.safe_dump(spec), "spec"), found).student.type == "mine"
    assert resolve_spec(parse_spec(yaml.safe_dump({**spec, "recipe": "released"}), "spec"), found).recipe == "released"
    with pytest.raises(SpecError) as caught:
        resolve_spec(parse_spec(yaml.safe_dump({**spec, "recipe": "paper"}), "spec"), found)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("spec:")
    assert line.endswith(f"`recipe`: {told}")


@pytest.mark.parametrize("key", ["", "ratio", "list"])
def test_no_package_takes_blocks_from_a_noise_protocol_of_meds(key: str) -> None:
    class Keys(Options):
        ratio: float = 0.1
        list: str = ""

    found = with_plugin("noise protocol", load_registry(), options=Keys, without_type=key)
    (broken,) = found.broken
    assert f"The noise protocol 'mine' has {key!r} as its `without_type`, which means one that comes" in broken.error
    assert found.meant("noise protocol", {"ratio": 0.1}) == "inject"
    assert found.meant("noise protocol", {"list": "a.csv"}) == "list"
