"""The packages under plugins_contrib: complete, and built on nothing but the public interface."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import meds
from meds.core import hookspecs
from meds.core.registry import ENTRY_POINT_GROUP

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.parent for path in ROOT.glob("plugins_contrib/*/pyproject.toml"))
BASELINES = {"patchcore", "softpatch", "inreach", "fun-ad", "uniad"}
LINES_ON_A_SCREEN = 70


def of_package(package: Path) -> str:
    return package.name


def project(package: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def imports(file: Path) -> Iterator[str]:
    """Every module that a file names in an import, wherever in the file, relative imports aside."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "meds")


def of_meds(file: Path) -> set[str]:
    return {name for name in imports(file) if name.split(".")[0] == "meds"}


def test_the_five_baselines_are_there() -> None:
    assert {f"meds-{name}" for name in BASELINES | {"anomalib", "mlflow"}} <= {package.name for package in PACKAGES}


@pytest.mark.parametrize("package", PACKAGES, ids=of_package)
def test_its_code_imports_the_public_interface_only(package: Path) -> None:
    for file in package.rglob("src/**/*.py"):
        assert of_meds(file) <= {"meds.api"}, file
    for file in package.rglob("tests/*.py"):
        assert of_meds(file) <= {"meds.api", "meds.testing"}, file


@pytest.mark.parametrize("package", PACKAGES, ids=of_package)
def test_no_private_module_hides_in_a_string(package: Path) -> None:
    private = {path.stem for path in Path(meds.__file__).parent.iterdir()} - {"api", "testing"}
    for file in package.rglob("*.py"):
        named = re.findall(r"""["']meds\.(\w+)""", file.read_text(encoding="utf-8"))
        assert not private & set(named), file


@pytest.mark.parametrize("package", PACKAGES, ids=of_package)
def test_it_needs_no_other_package_of_this_repository(package: Path) -> None:
    names = {other.name for other in PACKAGES} - {package.name}
    needed = {re.split(r"[<>=!~ \[;]", text)[0] for text in project(package)["dependencies"]}
    assert "meds-ad" in needed
    assert not names & needed


@pytest.mark.parametrize("package", PACKAGES, ids=of_package)
def test_it_is_complete(package: Path) -> None:
    facts = project(package)
    assert facts["name"] == package.name
    assert facts["entry-points"][ENTRY_POINT_GROUP]
    assert list(package.glob("examples/*.yaml"))
    kits = [file for file in package.glob("tests/*.py") if "meds.testing" in of_meds(file)]
    assert kits, "its tests use no conformance kit"
    readme = (package / "README.md").read_text(encoding="utf-8")
    assert f"pip install . ./plugins_contrib/{package.name}" in readme
    assert re.search(r"Apache-2\.0|MIT|no licen[cs]e", readme), "its README says nothing of the method's licence"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("inreach", "has **no licence**"),
        ("fun-ad", "**a patent application has been filed"),
        ("softpatch", "has no licence file"),
    ],
)
def test_a_readme_says_what_restricts_the_method(name: str, sentence: str) -> None:
    text = " ".join((ROOT / f"plugins_contrib/meds-{name}/README.md").read_text(encoding="utf-8").split())
    assert sentence in text


def test_the_hooks_stand_on_one_screen() -> None:
    assert len(Path(hookspecs.__file__).read_text(encoding="utf-8").splitlines()) <= LINES_ON_A_SCREEN
