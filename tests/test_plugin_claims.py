"""Two packages that want the same name: neither has it, whatever the alphabet says, and a spec is told so."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from plugin_cases import distribution

from meds.core.errors import PluginError, SpecError
from meds.core.hookspecs import hookimpl
from meds.core.registry import OWN_DISTRIBUTION, Options, Plugin, Registry, load_registry
from meds.core.spec import resolve_spec
from meds.core.spec_source import parse_spec

BOTH = "acme and zeta both have a student named 'shared', so that neither is used; uninstall one of them."
CODE = """
from meds.api import Options, Plugin, hookimpl

@hookimpl
def meds_students():
    return [Plugin(name, Options, "json:JSONDecoder", "For a test.") for name in NAMES]
"""


def students(*names: str) -> Any:
    entries = [Plugin(name, Options, "json:JSONDecoder", "For a test.") for name in names]
    return SimpleNamespace(meds_students=hookimpl(lambda: entries))


def packages(**names: tuple[str, ...]) -> Iterator[Registry]:
    """Registries that found these packages with their students, in every order."""
    for order in permutations(names):
        found = Registry()
        for package in order:
            found.register_module(students(*names[package]), package, "1", f"{package}-point")
        yield found


def test_a_contested_name_is_nobodys_in_any_order() -> None:
    for found in packages(acme=("shared", "a-own"), zeta=("shared", "z-own"), other=("o-own",)):
        assert found.names("student") == ["a-own", "o-own", "z-own"]
        assert {(item.entry_point, item.package, item.error) for item in found.broken} == {
            ("acme-point", "acme", BOTH),
            ("zeta-point", "zeta", BOTH),
        }
        for ask in (lambda known=found: known.get("student", "shared"), lambda known=found: known.find("shared")):
            with pytest.raises(PluginError) as caught:
                ask()
            assert str(caught.value) == BOTH
        with pytest.raises(PluginError, match=r"unknown student 'sharde'; known: [a-z, -]*\.$"):
            found.get("student", "sharde")


def test_three_packages_are_all_named() -> None:
    for found in packages(acme=("shared",), zeta=("shared",), more=("shared",)):
        assert {item.error for item in found.broken} == {
            "acme, more, zeta all have a student named 'shared', so that none is used; uninstall all but one of them."
        }
        assert len(found.broken) == 3


def test_a_name_of_meds_stays_there() -> None:
    names = {OWN_DISTRIBUTION: ("ours",), "acme": ("ours", "a-own"), "zeta": ("ours",)}
    for found in packages(**names):
        assert found.get("student", "ours").package == OWN_DISTRIBUTION
        assert found.get("student", "a-own").package == "acme"
        sentence = "A student named 'ours' comes with meds, so this one is left out; its author has to rename it."
        assert {(item.package, item.error) for item in found.broken} == {("acme", sentence), ("zeta", sentence)}


def test_two_entry_points_of_a_package_are_named() -> None:
    found = Registry()
    for point in ("one", "two"):
        found.register_module(students("shared"), "acme", "1", point)
    assert found.names("student") == []
    sentence = "The entry points one and two of acme have a student named 'shared' each, so that none is used;"
    assert [item.error for item in found.broken] == [f"{sentence} rename it in one."] * 2


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two installed packages with a student of the same name."""
    for package, module, own in (("acme", "acme_students", "a-own"), ("zeta", "a_first_module", "z-own")):
        distribution(tmp_path, package, module, CODE.replace("NAMES", repr(["shared", own])))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_spec_with_a_contested_name_is_told(
    site: Path, tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_spec["student"] = {"type": "shared"}
    source = parse_spec(yaml.safe_dump(tiny_spec, sort_keys=False), "spec.yaml")
    found = load_registry()
    assert {"a-own", "z-own", "rd"} <= set(found.names("student"))
    with pytest.raises(SpecError, match=rf"^spec\.yaml:\d+: {BOTH}$"):
        resolve_spec(source, found)
    monkeypatch.setenv("MEDS_PLUGINS", "zeta")
    assert resolve_spec(source, load_registry()).student.registration.package == "zeta"


def test_two_entry_points_may_name_one_module(site: Path) -> None:
    points = site / "acme_students-1.0.dist-info/entry_points.txt"
    points.write_text(points.read_text() + "again = acme_students\n")
    assert "a-own" in load_registry().names("student")


def test_an_entry_point_that_cannot_be_read_harms_nothing(site: Path) -> None:
    points = site / "acme_students-1.0.dist-info/entry_points.txt"
    points.write_text(points.read_text() + "bad = not a module\n")
    found = load_registry()
    assert {"a-own", "rd"} <= set(found.names("student"))
    assert {item.entry_point for item in found.broken} >= {"bad"}
