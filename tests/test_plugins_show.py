"""`meds plugins` and `meds plugins show`: states, options in words, names that nobody has."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from meds.core.describe import describe_options
from meds.core.errors import PluginError
from meds.core.hookspecs import hookimpl
from meds.core.registry import Options, Plugin, Registry, known_kind, registry


class Window(BaseModel):
    """A nested model."""

    side: int = Field(default=3, ge=1, le=9, description="Side in patches.")
    shape: Literal["square", "round"] = Field(default="square", description="Its shape.")


class Everything(Options):
    """An option of every type that the shipped plugins have, and some more."""

    plain: str = Field(description="Must be\n  given.")
    choice: Literal["a", "b"] | None = Field(default=None, description="One of two.")
    share: float = Field(default=0.5, gt=0, lt=1, description="Between 0 and 1.")
    path: Path | None = Field(default=None, description="A file.")
    flag: bool = Field(default=False, description="Yes or no.")
    pair: tuple[int, Annotated[float, Field(ge=0)]] = Field(default=(1, 2.0), description="Two numbers.")
    names: list[Literal["x", "y"]] = Field(default_factory=lambda: ["x"], description="Some names.")
    groups: list[list[str]] | None = Field(default=None, description="Groups.")
    weights: dict[str, float] = Field(default={}, description="By name.")
    window: Window = Field(default=Window(), description="A window.")
    rule: dict[str, Any] = Field(
        default={"type": "median-mad"}, description="A rule.", json_schema_extra={"plugin": "selection rule"}
    )


def test_types_and_defaults_are_told_as_a_spec_would_have_them() -> None:
    assert [(option.name, option.type, option.default_text) for option in describe_options(Everything)] == [
        ("plain", "text", "required"),
        ("choice", "a | b | null", "default null"),
        ("share", "number > 0 and < 1", "default 0.5"),
        ("path", "path | null", "default null"),
        ("flag", "true | false", "default false"),
        ("pair", "[integer, number >= 0]", "default [1, 2.0]"),
        ("names", "list of (x | y)", "default [x]"),
        ("groups", "list of list of text | null", "default null"),
        ("weights", "mapping to number", "default {}"),
        ("window", "mapping", "default {side: 3, shape: square}"),
        ("window.side", "integer >= 1 and <= 9", "default 3"),
        ("window.shape", "square | round", "default square"),
        ("rule", "a selection rule with its options", "default {type: median-mad}"),
    ]
    assert describe_options(Everything)[0].meaning == "Must be given."


def test_every_option_of_every_shipped_plugin_has_a_type_and_a_meaning() -> None:
    for item in registry().all():
        if item.package == "meds-ad":
            for option in describe_options(item.plugin.options):
                assert option.meaning, (item.plugin.name, option.name)
                assert "anything" not in option.type, (item.plugin.name, option.name)


def test_show_tells_everything(meds: Callable[..., Any]) -> None:
    done = meds("plugins", "show", "select-finetune")
    assert done.code == 0
    for line in (
        "stage select-finetune: Fine-tune the student on images that it selects itself.",
        "class: meds.stages.select_finetune:SelectFinetune",
        'recipe paper: critical_value = 1.0, rounding = "ceil"',
        "init: distilled | random (default distilled)",
        "rule: a selection rule with its options (default {type: median-mad})",
        "k: how many deviations the threshold grows to.",
    ):
        assert line in done.said
    assert "where images are selected: discard_rate = 0.5" in meds("plugins", "show", "dinomaly").said
    assert 'recipe released, stage distill: loss = "l1"' in meds("plugins", "show", "inp-former").said


def test_show_as_json(meds: Callable[..., Any]) -> None:
    shown = json.loads(meds("plugins", "show", "median-mad", "--kind", "selection-rule", "--json").out)
    assert (shown["kind"], shown["package"]) == ("selection rule", "meds-ad")
    assert shown["class"] == "meds.plugins.selection:MedianMad"
    assert shown["recipes"] == {"paper": {"median": "middle"}, "released": {"median": "lower"}}
    (option,) = shown["options"]
    assert (option["name"], option["type"], option["required"], option["default"]) == (
        "median",
        "lower | middle",
        False,
        "lower",
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("rrd",), "unknown plugin 'rrd'; did you mean 'rd'?"),
        (("rd", "--kind", "dataset"), "unknown dataset 'rd'; known: elpv,"),
        (("rd", "--kind", "studnet"), "unknown kind of plugin 'studnet'; did you mean 'student'?"),
    ],
)
def test_unknown_names_are_one_sentence(meds: Callable[..., Any], arguments: tuple[str, ...], sentence: str) -> None:
    done = meds("plugins", "show", *arguments)
    assert done.code == 2
    assert sentence in done.said
    assert len(done.err.splitlines()) == 1


def test_a_name_of_two_kinds_needs_the_kind() -> None:
    class Twice:
        @hookimpl
        def meds_students(self) -> list[Plugin]:
            return [Plugin("both", Options, "x:Y", "A student.")]

        @hookimpl
        def meds_datasets(self) -> list[Plugin]:
            return [Plugin("both", Options, "x:Y", "A dataset.")]

    found = Registry()
    found.register_module(Twice(), "twice", "1")
    with pytest.raises(PluginError, match=r"'both' is a dataset and a student; say which with --kind\."):
        found.find("both")
    assert found.find("both", "student").plugin.summary == "A student."
    assert known_kind("Noise protocol") == known_kind("noise-protocol") == "noise protocol"


def test_the_list_shows_states(meds: Callable[..., Any]) -> None:
    rows = json.loads(meds("plugins", "--json").out)["plugins"]
    rd = next(row for row in rows if row["name"] == "rd")
    assert (rd["kind"], rd["package"], rd["state"]) == ("student", "meds-ad", "ok")
    assert rd["from"] == "meds.plugins.students.rd_network:ReverseDistillation"
    lines = [line.split() for line in meds("plugins").out.splitlines()]
    assert ["kind", "name", "package", "version", "state"] in lines
    assert ["student", "rd", "meds-ad", rd["version"], "ok"] in lines


def test_showing_a_plugin_imports_no_torch() -> None:
    code = (
        "import sys, atexit\nfrom meds.__main__ import main\nsys.argv = ['meds', 'plugins', 'show', 'dinomaly']\n"
        "atexit.register(lambda: print('torch' in sys.modules))\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
