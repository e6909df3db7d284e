"""Modules whose hooks give no plugins: each is listed as broken, with what its author forgot."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from meds.core.hookspecs import hookimpl
from meds.core.registry import Options, Plugin, Registry

ENTRY = Plugin("mine", Options, "nowhere:Mine", "For a test.")


def raises(error: BaseException) -> Any:
    def hook() -> Any:
        raise error

    return hookimpl(hook)


def returns(value: Any) -> Any:
    return hookimpl(lambda: value)


def unmarked() -> list[Plugin]:
    return [ENTRY]


WANTED = "it must return a list of `Plugin` entries."


@pytest.mark.parametrize(
    ("functions", "error"),
    [
        ({}, "It registers no plugin: its module has no function that is called meds_datasets or meds_backbones or"),
        ({"meds_students": unmarked}, "meds_students registers nothing; mark it with @hookimpl."),
        (
            {"meds_students": returns([ENTRY]), "meds_stages": unmarked},
            "meds_stages registers nothing; mark it with @hookimpl.",
        ),
        (
            {"meds_student": unmarked},
            "It registers no plugin: unknown hook 'meds_student'; did you mean 'meds_students'? And mark it with",
        ),
        ({"meds_studnets": returns([ENTRY])}, "unknown hook 'meds_studnets'; did you mean 'meds_students'?"),
        ({"meds_students": returns(None)}, f"meds_students returns None; {WANTED}"),
        (
            {"meds_students": returns([ENTRY]), "meds_stages": returns(None)},
            f"meds_stages returns None; {WANTED}",
        ),
        ({"meds_students": returns([])}, "It registers no plugin: meds_students returns an empty list."),
        ({"meds_students": returns(ENTRY)}, "meds_students returns Plugin(name='mine', "),
        ({"meds_students": returns("mine")}, f"meds_students returns 'mine'; {WANTED}"),
        ({"meds_students": returns(3)}, f"meds_students returns 3; {WANTED}"),
        (
            {"meds_students": returns(["mine"])},
            "meds_students returns a list with 'mine' in it, which is no `Plugin` of meds.api.",
        ),
        ({"meds_students": returns([BaseModel])}, "in it, which is no `Plugin` of meds.api."),
        ({"meds_students": raises(RuntimeError("no such driver"))}, "RuntimeError: no such driver"),
        ({"meds_students": raises(SystemExit(3))}, "SystemExit: 3"),
    ],
)
def test_a_module_without_plugins_is_broken(functions: dict[str, Any], error: str) -> None:
    module = ModuleType("forgetful")
    vars(module).update(functions)
    found = Registry()
    found.register_module(module, "somebody", "1", "point")
    (broken,) = found.broken
    assert found.all() == []
    assert (broken.entry_point, broken.package, broken.module) == ("point", "somebody", "forgetful")
    assert error in broken.error


@pytest.mark.parametrize("entries", [[ENTRY], (ENTRY,), iter([ENTRY])])
def test_any_series_of_plugins_will_do(entries: Any) -> None:
    found = Registry()
    hook = hookimpl(lambda: entries, specname="meds_students")
    found.register_module(SimpleNamespace(students=hook, meds_helper=unmarked), "somebody", "1")
    assert not found.broken
    assert found.names("student") == ["mine"]
