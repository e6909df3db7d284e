"""Plugins under development: edited code is another plugin, whose results are not those of the old code."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from meds.core import plugin_source
from meds.core.pipeline import Pipeline
from meds.core.plugin_source import source_digest
from meds.core.registry import Options, Plugin, Registration, Registry, load_registry
from meds.core.spec import resolve_spec
from meds.core.spec_source import parse_spec

PACKAGE = "afternoon"
CODE = """
from meds.api import hookimpl, Options, Plugin
from meds.plugins.backbones.efficientnet_lite0 import EfficientNetLite0Options
from meds.plugins.backbones.timm_backbone import EfficientNetLite0
from meds.plugins.selection import MedianMad, MedianMadOptions
from meds.plugins.students.rd import RDOptions
from meds.plugins.students.rd_network import ReverseDistillation

@hookimpl
def meds_students():
    return [Plugin("my-student", RDOptions, "afternoon:ReverseDistillation", "x")]

@hookimpl
def meds_selection_rules():
    return [Plugin("my-rule", MedianMadOptions, "afternoon:MedianMad", "x")]

@hookimpl
def meds_backbones():
    return [Plugin("my-backbone", EfficientNetLite0Options, "afternoon:EfficientNetLite0", "x")]
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package on the path with a student, a selection rule and a backbone."""
    folder = tmp_path / "site" / PACKAGE
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(CODE)
    (folder / "detail.py").write_text("WIDTH = 1\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    yield folder
    sys.modules.pop(PACKAGE, None)


def plugged() -> Registry:
    found = load_registry()
    found.register_module(__import__(PACKAGE), PACKAGE, "1")
    assert not found.broken
    return found


def fingerprints(spec: dict[str, Any], **changes: Any) -> dict[str, str]:
    """The names of a run's results by stage, and of its features."""
    found = plugged()
    source = parse_spec(yaml.safe_dump({**spec, **changes}), "spec")
    pipeline = Pipeline(resolve_spec(source, found), found)
    return {stage.name: stage.fingerprint for stage in pipeline.stages} | {"features": pipeline.features.folder.name}


def edited(package: Path, spec: dict[str, Any], **changes: Any) -> set[str]:
    """The stages whose results get another name when a file of the package is edited."""
    before = fingerprints(spec, **changes)
    (package / "detail.py").write_text("WIDTH = 2\n")
    after = fingerprints(spec, **changes)
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def test_an_edited_student_trains_anew(package: Path, tiny_spec: dict[str, Any]) -> None:
    student = {**tiny_spec["student"], "type": "my-student"}
    tiny_spec["stages"][0]["features"] = "final"
    assert edited(package, tiny_spec, student=student) == {"distill", "select-finetune", "evaluate"}


def test_an_edited_rule_selects_anew(package: Path, tiny_spec: dict[str, Any]) -> None:
    tiny_spec["stages"][2]["rule"] = {"type": "my-rule"}
    assert edited(package, tiny_spec) == {"select-finetune", "evaluate"}


def test_an_edited_backbone_encodes_anew(package: Path, tiny_spec: dict[str, Any]) -> None:
    backbone = {**tiny_spec["backbone"], "type": "my-backbone"}
    names = {"features", "memory", "distill", "select-finetune", "evaluate"}
    assert edited(package, tiny_spec, backbone=backbone) == names


def test_a_package_that_has_no_part_in_a_run_changes_nothing(package: Path, tiny_spec: dict[str, Any]) -> None:
    assert edited(package, tiny_spec) == set()


def test_the_digest_follows_every_python_file_of_the_package(package: Path) -> None:
    seen = {source_digest(f"{PACKAGE}:Anything")}
    (package / "notes.txt").write_text("not code")
    seen.add(source_digest(f"{PACKAGE}.detail:Anything"))
    assert len(seen) == 1
    (package / "inner").mkdir()
    (package / "inner" / "more.py").write_text("")
    seen.add(source_digest(f"{PACKAGE}:Anything"))
    (package / "inner" / "more.py").rename(package / "more.py")
    seen.add(source_digest(f"{PACKAGE}:Anything"))
    assert len(seen) == 3
    assert source_digest("no_such_package.anywhere:Class") == ""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A distribution `plug` of two modules and a test, and a module that nobody installed."""
    folder = tmp_path / "site"
    write(folder / "plug.py", "import core_part\nimport base_part\nclass Mine(base_part.Base): pass\n")
    write(folder / "core_part.py", "WIDTH = 1\n")
    write(folder / "base_part.py", "class Base: pass\n")
    write(folder / "elsewhere.py", "WIDTH = 1\n")
    write(folder / "tests/test_plug.py", "WIDTH = 1\n")
    install(folder, "plug", "plug.py", "core_part.py", "tests/test_plug.py")
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    yield folder
    for name in ("plug", "core_part", "base_part", "elsewhere", "flat_core"):
        sys.modules.pop(name, None)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def install(site: Path, name: str, *listed: str, version: str = "1") -> None:
    """What an installer would write, with a list of files."""
    info = site / f"{name.replace('-', '_')}-1.dist-info"
    write(info / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    write(info / "entry_points.txt", "[meds]\nplug = plug\n" if name == "plug" else "")
    write(info / "RECORD", "".join(f"{file},,\n" for file in listed))


def identity() -> list[str]:
    return Registration("student", Plugin("mine", Options, "plug:Mine", "x"), "plug", "1").identity()


def changes(path: Path, text: str = "WIDTH = 2\n") -> bool:
    """Whether another text of a file makes it another plugin."""
    before = identity()
    write(path, text)
    return identity() != before


def test_every_module_of_the_distribution_counts(site: Path) -> None:
    assert changes(site / "core_part.py")
    assert not changes(site / "core_part.py")
    assert not changes(site / "elsewhere.py")
    assert not changes(site / "tests/test_plug.py")


def test_a_list_of_top_modules_counts_where_files_are_not_listed(site: Path) -> None:
    (site / "plug-1.dist-info/RECORD").unlink()
    assert not changes(site / "core_part.py")
    write(site / "plug-1.dist-info/top_level.txt", "plug\ncore_part\n")
    assert changes(site / "core_part.py", "WIDTH = 3\n")


def test_the_folder_of_an_editable_installation_counts(site: Path, tmp_path: Path) -> None:
    source = tmp_path / "work"
    for name in ("plug.py", "core_part.py"):
        source.mkdir(exist_ok=True)
        (site / name).rename(source / name)
    write(source / "tests/__init__.py", "")
    write(source / "notes/plan.py", "")
    write(site / "_editable_plug.pth", f"# a note\nimport os\n{source}\n")
    install(site, "plug", "_editable_plug.pth")
    sys.path.insert(1, str(source))
    importlib.invalidate_caches()
    assert changes(source / "core_part.py")
    assert changes(source / "flat_core.py", "WIDTH = 1\n")
    assert not changes(source / "tests/__init__.py")
    assert not changes(source / "notes/plan.py")


def test_what_the_class_inherits_from_counts_with_its_source(site: Path) -> None:
    assert changes(site / "base_part.py", "class Base: width = 2\n")


def test_what_it_inherits_from_another_distribution_counts_with_its_version(site: Path) -> None:
    before = identity()
    install(site, "base-lib", "base_part.py")
    forget_distributions()
    installed = identity()
    assert installed != before
    assert not changes(site / "base_part.py", "class Base: width = 2\n")
    install(site, "base-lib", "base_part.py", version="2")
    forget_distributions()
    assert identity() != installed


def test_a_class_of_an_editable_distribution_counts_with_its_source(site: Path, tmp_path: Path) -> None:
    source = tmp_path / "work"
    source.mkdir()
    (site / "base_part.py").rename(source / "base_part.py")
    sys.path.insert(1, str(source))
    install(site, "base-lib", "base_part.pth")
    write(site / "base_lib-1.dist-info/top_level.txt", "base_part\n")
    forget_distributions()
    assert changes(source / "base_part.py", "class Base: width = 2\n")


def test_the_libraries_that_meds_is_made_of_do_not_count(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*arguments: object) -> None:
        raise AssertionError("every distribution was read")

    monkeypatch.setattr("meds.core.plugin_source._distributions", asked)
    from meds.core.student import Student

    assert source_digest("plug:Mine", "plug", [Student, Options]) == source_digest("plug:Mine", "plug")


def forget_distributions() -> None:
    """A process looks only once at what is installed."""
    importlib.invalidate_caches()
    plugin_source._distributions.cache_clear()
    plugin_source._installed.cache_clear()


def test_asking_again_costs_little(site: Path) -> None:
    for number in range(100):
        write(site / "core_part" / f"part_{number}.py", "WIDTH = 1\n" * 1000)
    identity()
    begin = time.perf_counter()
    for _ in range(10):
        identity()
    assert time.perf_counter() - begin < 1


def test_only_packages_other_than_meds_count_with_their_source() -> None:
    found = Registry()
    found.register_module(_Hooks(), "meds-ad", "1")
    assert found.get("student", "mine").identity() == ["mine", "meds-ad", "1", "1"]


class _Hooks:
    """Registers a student whose implementation does not matter."""

    def __init__(self) -> None:
        from meds.core.hookspecs import hookimpl

        self.meds_students = hookimpl(lambda: [Plugin("mine", Options, "json:JSONDecoder", "x")])


def test_of_a_shared_top_package_only_the_plugin_s_part_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here", "elsewhere"):
        (tmp_path / name / "acme").mkdir(parents=True)
        monkeypatch.syspath_prepend(str(tmp_path / name))
    plug = tmp_path / "here" / "acme" / "plug.py"
    plug.write_text("WIDTH = 1\n")
    importlib.invalidate_caches()
    before = source_digest("acme.plug:C")
    (tmp_path / "elsewhere" / "acme" / "other.py").write_text("WIDTH = 2\n")
    assert source_digest("acme.plug:C") == before != ""
    plug.write_text("WIDTH = 11\n")
    assert source_digest("acme.plug:C") != before
    sys.modules.pop("acme", None)
