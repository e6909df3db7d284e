"""Plugins under development: edited code is another plugin, whose results are not those of the old code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from meds.core.pipeline import Pipeline
from meds.core.plugin_source import source_digest
from meds.core.registry import Options, Plugin, Registry, load_registry
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


def test_only_packages_other_than_meds_count_with_their_source() -> None:
    found = Registry()
    found.register_module(_Hooks(), "meds-ad", "1")
    assert found.get("student", "mine").identity() == ["mine", "meds-ad", "1", "1"]


class _Hooks:
    """Registers a student whose implementation does not matter."""

    def __init__(self) -> None:
        from meds.core.hookspecs import hookimpl

        self.meds_students = hookimpl(lambda: [Plugin("mine", Options, "json:JSONDecoder", "x")])
