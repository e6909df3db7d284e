"""Plugins: found through entry points, kept apart when broken, limited by MEDS_PLUGINS, listed without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from plugin_cases import distribution, python

from meds.core.errors import PluginError
from meds.core.hookspecs import API_VERSION, hookimpl
from meds.core.registry import KINDS, OWN_DISTRIBUTION, Options, Plugin, Registry, load_registry, registry

BUILT_IN = {
    "dataset": {"elpv", "folder", "masked", "mvtec", "real-iad", "synthetic", "visa"},
    "backbone": {"dinov2-small", "efficientnet-lite0", "timm"},
    "student": {"dinomaly", "hvq", "inp-former", "rd"},
    "stage": {"memory", "distill", "select-finetune", "fit", "evaluate"},
    "selection rule": {"median-mad"},
    "noise protocol": {"inject", "list"},
    "logger": {"tensorboard"},
}


class Module:
    """A plugin module with one student of that name."""

    def __init__(self, name: str = "mine", load: str = "nowhere.at_all:Student", times: int = 1) -> None:
        self.entries = [Plugin(name, Options, load, "A student for a test.")] * times

    @hookimpl
    def meds_students(self) -> Any:
        return self.entries


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages: one works, one cannot be imported, one leaves Python."""
    folder = tmp_path / "site"
    folder.mkdir()
    working = (
        "from meds.core.hookspecs import API_VERSION, hookimpl\nfrom meds.core.registry import Options, Plugin\n"
        "class Student: pass\n"
        "@hookimpl\ndef meds_students():\n    return [Plugin('other-student', Options, 'works_well:Student', 'x')]\n"
    )
    distribution(folder, "works-well", "works_well", working)
    distribution(folder, "is-broken", "is_broken", "import a_module_that_is_not_there\n")
    distribution(folder, "leaves", "leaves", "raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_built_in_plugins_come_through_entry_points() -> None:
    points = [point for point in entry_points(group="meds") if point.dist and point.dist.name == OWN_DISTRIBUTION]
    found = load_registry()
    own = [item for item in found.all() if item.package == OWN_DISTRIBUTION]
    assert {kind: {item.plugin.name for item in own if item.kind == kind} for kind in KINDS}.items() >= {
        kind: names for kind, names in BUILT_IN.items() if kind != "student"
    }.items()
    assert {item.plugin.name for item in own if item.kind == "student"} >= BUILT_IN["student"]
    assert len(points) >= 10
    assert not [broken for broken in found.broken if broken.package == OWN_DISTRIBUTION]


def test_every_built_in_implementation_loads_and_has_a_summary() -> None:
    for item in registry().all():
        if item.package == OWN_DISTRIBUTION:
            assert isinstance(item.load(), type)
            assert item.plugin.summary.endswith(".")


def test_broken_plugins_are_listed_and_break_nothing_else(site: Path) -> None:
    found = load_registry()
    assert found.get("student", "other-student").package == "works-well"
    assert {"rd", "other-student"} <= set(found.names("student"))
    errors = {broken.package: broken.error for broken in found.broken}
    assert errors == {
        "is-broken": "ModuleNotFoundError: No module named 'a_module_that_is_not_there'",
        "leaves": "SystemExit: 3",
    }


def test_the_command_shows_broken_plugins(site: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(site)!r}); from meds.__main__ import main; "
    shown = json.loads("\n".join(python(code + "sys.argv = ['meds', 'plugins', '--json']; main()")))
    assert {row["package"] for row in shown["broken"]} == {"is-broken", "leaves"}
    assert {row["from"] for row in shown["broken"]} == {"is_broken", "leaves"}
    listed = {(r["name"], r["package"], r["version"], r["from"], r["state"]) for r in shown["plugins"]}
    assert ("other-student", "works-well", "1.0", "works_well:Student", "ok") in listed
    text = "\n".join(python(code + "sys.argv = ['meds', 'plugins']; main()"))
    assert "broken: is_broken of is-broken: ModuleNotFoundError" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["student", "other-student", "works-well", "1.0", "ok"] in rows
    assert ["is_broken", "is-broken", "1.0", "broken"] in rows


def test_a_wide_terminal_shows_where_plugins_are_loaded_from(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    code = f"import sys; sys.path.insert(0, {str(site)!r}); from meds.__main__ import main; "
    rows = [line.split() for line in python(code + "sys.argv = ['meds', 'plugins']; main()")]
    assert ["kind", "name", "package", "version", "from", "state"] in rows
    assert ["student", "other-student", "works-well", "1.0", "works_well", "ok"] in rows
    assert ["is_broken", "is-broken", "1.0", "is_broken", "broken"] in rows
    assert max(map(len, python(code + "sys.argv = ['meds', 'plugins']; main()"))) <= 120


def test_a_plugin_whose_module_is_missing_is_broken(site: Path) -> None:
    text = (site / "works_well.py").read_text().replace("other-student", "lost").replace("works_well:", "loses.gone:")
    distribution(site, "loses", "loses", text)
    code = f"import sys; sys.path.insert(0, {str(site)!r}); from meds.__main__ import main; sys.argv = ['meds', "
    shown = json.loads("\n".join(python(f"{code}'plugins', '--json']; main()")))
    states = {row["name"]: (row["state"], row["error"]) for row in shown["plugins"]}
    error = "ModuleNotFoundError: No module named 'loses.gone'"
    assert states["lost"] == ("broken", error)
    assert states["other-student"] == states["rd"] == ("ok", None)
    lines = python(f"{code}'plugins']; main()")
    assert ["student", "lost", "loses", "1.0", "broken"] in [line.split() for line in lines]
    assert f"broken: student lost of loses: {error}" in lines
    assert f"broken: {error}" in python(f"{code}'plugins', 'show', 'lost']; main()")
    doctor = [sys.executable, "-c", f"{code}'doctor']; main()"]
    told = subprocess.run(doctor, capture_output=True, text=True, check=False).stdout
    assert f"student lost of loses is broken: {error}" in " ".join(told.split())


def test_an_unknown_name_is_told_with_the_broken_packages(site: Path) -> None:
    with pytest.raises(PluginError, match=r"Broken and left out: is-broken, leaves \(see `meds plugins`\)\."):
        load_registry().get("student", "is-broken")


@pytest.mark.parametrize(
    ("version", "error"),
    [
        (
            99,
            f"It was written for version 99 of meds.api, and the installed meds has version {API_VERSION}; "
            "install a newer release of meds-ad.",
        ),
        (
            0,
            f"It was written for version 0 of meds.api, and the installed meds has version {API_VERSION}; "
            "install a newer release of stated.",
        ),
        ("1", "MEDS_API must be a whole number such as 1, not '1'."),
        (True, "MEDS_API must be a whole number such as 1, not True."),
    ],
)
def test_a_plugin_for_another_version_is_broken(site: Path, version: object, error: str) -> None:
    text = (site / "works_well.py").read_text().replace("other-student", "stated-student")
    distribution(site, "stated", "stated", f"{text}MEDS_API = {version!r}\n")
    found = load_registry()
    assert {broken.package: broken.error for broken in found.broken}["stated"] == error
    assert "stated-student" not in found.names("student")
    assert {"rd", "other-student"} <= set(found.names("student"))


def test_a_plugin_for_this_version_works(site: Path) -> None:
    text = (site / "works_well.py").read_text().replace("other-student", "stated-student")
    distribution(site, "stated", "stated", f"{text}MEDS_API = {API_VERSION}\n")
    assert "stated-student" in load_registry().names("student")


def test_meds_plugins_limits_other_packages_only(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDS_PLUGINS", "works-well")
    found = load_registry()
    assert {"rd", "other-student"} <= set(found.names("student"))
    assert not found.broken
    monkeypatch.setenv("MEDS_PLUGINS", "is_broken, something-else")
    assert [broken.package for broken in load_registry().broken] == ["is-broken"]
    monkeypatch.setenv("MEDS_PLUGINS", "")
    found = load_registry()
    assert "other-student" not in found.names("student")
    assert "rd" in found.names("student")
    assert not found.broken


def test_a_module_that_names_two_things_alike_is_refused() -> None:
    found = Registry()
    found.register_module(Module(times=2), "twice", "1")
    assert found.names("student") == []
    assert found.broken[0].error == "It has two plugins of the kind 'student' named 'mine'; rename one."


def test_one_name_may_be_used_in_two_kinds() -> None:
    found = Registry()
    found.register_module(Module("folder"), "first", "1")
    assert found.get("student", "folder").kind == "student"
    with pytest.raises(PluginError):
        found.get("dataset", "folder")


def test_an_implementation_that_cannot_be_loaded_is_a_sentence() -> None:
    found = Registry()
    found.register_module(Module(), "somebody", "2.1")
    with pytest.raises(
        PluginError, match=r"student 'mine' \(package somebody 2\.1\) could not be loaded: Mod.*nowhere"
    ):
        found.get("student", "mine").load()


def test_unknown_name_comes_with_the_nearest_known_one() -> None:
    with pytest.raises(PluginError, match=r"unknown dataset 'folders'; did you mean 'folder'\?"):
        registry().get("dataset", "folders")
    with pytest.raises(PluginError, match=r"unknown logger 'x'; known: none\."):
        Registry().get("logger", "x")


def test_listing_plugins_does_not_import_torch() -> None:
    code = "import sys; from meds.core.registry import load_registry; names = load_registry().names('student'); "
    assert python(code + "print('rd' in names, 'torch' in sys.modules, 'timm' in sys.modules)") == ["True False False"]
    command = (
        "import sys, atexit\nfrom meds.__main__ import main\nsys.argv = ['meds', 'plugins']\n"
        "atexit.register(lambda: print('torch' in sys.modules))\nmain()"
    )
    assert python(command)[-1] == "False"


def test_help_imports_neither_torch_nor_pydantic() -> None:
    code = (
        "import sys, atexit\nfrom meds.__main__ import main\nsys.argv = ['meds', '--help']\n"
        "atexit.register(lambda: print([n for n in ('torch', 'pydantic', 'numpy') if n in sys.modules]))\nmain()"
    )
    lines = python(code)
    assert any("run" in line for line in lines)
    assert lines[-1] == "[]"
