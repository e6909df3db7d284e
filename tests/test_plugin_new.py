"""`meds plugins new`: packages of all eight kinds keep the contract, run, and pass their own tests."""

from __future__ import annotations

import ast
import importlib
import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_lines import check_command
from conftest import Finished, run_command

from meds.core.registry import ENTRY_POINT_GROUP, registry
from meds.templates import SCAFFOLDS, command_to_check
from meds.testing.base import Kit
from meds.testing.checking import KITS
from meds.testing.registries import with_encoders

PUBLIC = {"meds.api", "meds.testing"}
NAMES = {
    "student": "copy",
    "detector": "gauss",
    "backbone": "small",
    "stage": "centre",
    "dataset": "listed",
    "selection-rule": "quantile",
    "noise-protocol": "few",
    "logger": "lines",
}


@dataclass(frozen=True)
class Begun:
    """A new package: its kind, the plugin's name and the folder."""

    kind: str
    name: str
    folder: Path

    @property
    def module(self) -> str:
        return self.folder.name.replace("-", "_")

    @property
    def source(self) -> Path:
        return self.folder / "src"

    @property
    def tests(self) -> Path:
        return self.folder / "tests" / f"test_{self.module}.py"

    def kit(self) -> type[Kit]:
        """The one kit that its own tests subclass."""
        scope: dict[str, Any] = {"__name__": f"tests_of_{self.module}", "__file__": str(self.tests)}
        exec(compile(self.tests.read_text(encoding="utf-8"), str(self.tests), "exec"), scope)
        named = [found for name, found in scope.items() if name.startswith("Test") and isinstance(found, type)]
        (kit,) = [found for found in named if issubclass(found, Kit)]
        return kit


def install(package: Begun) -> None:
    """Write what an installer would write, beside the package's source."""
    project = tomllib.loads((package.folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = package.source / f"{package.module}-{project['version']}.dist-info"
    info.mkdir()
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(head, encoding="utf-8")
    points = [f"{name} = {target}" for name, target in project["entry-points"][ENTRY_POINT_GROUP].items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{ENTRY_POINT_GROUP}]", *points]), encoding="utf-8")


def forget() -> None:
    """The next command looks at what is installed anew."""
    registry.cache_clear()
    with_encoders.cache_clear()


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Begun]]:
    """A new package of every kind, all of them installed."""
    root = tmp_path_factory.mktemp("packages")
    found = {}
    for kind, name in NAMES.items():
        done = run_command("plugins", "new", kind, name, "--folder", root)
        assert done.code == 0, done.err
        found[kind] = Begun(kind, name, root / f"meds-{name}")
    with pytest.MonkeyPatch.context() as patch:
        for package in found.values():
            install(package)
            patch.syspath_prepend(str(package.source))
            patch.setenv("PYTHONPATH", str(package.source), prepend=os.pathsep)
        forget()
        yield found
        modules = tuple(package.module for package in found.values())
        for name in [name for name in sys.modules if name.startswith(modules)]:
            del sys.modules[name]
    forget()


def test_every_kind_of_plugin_can_be_begun(packages: Mapping[str, Begun]) -> None:
    assert set(packages) == set(SCAFFOLDS)
    assert {kind.replace("-", " ") for kind in packages} == set(KITS)
    listed = {(item.package, item.plugin.name) for item in registry().all()}
    assert {(package.folder.name, package.name) for package in packages.values()} <= listed


@pytest.mark.parametrize("kind", NAMES)
def test_it_keeps_the_contract(
    kind: str, packages: Mapping[str, Begun], meds: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = packages[kind]
    kit = package.kit()
    assert issubclass(kit, KITS[kind.replace("-", " ")])
    assert (kit.name, kit.not_checked) == (package.name, {})
    monkeypatch.chdir(package.folder)
    readme = Path("README.md").read_text(encoding="utf-8")
    command = command_to_check(kind, package.name)
    assert f"\n{command} " in readme
    done = meds(*shlex.split(command)[1:])
    assert done.code == 0, done.out + done.err
    assert f"{len(kit.checks)} passed." in done.out


@pytest.mark.parametrize("kind", NAMES)
def test_its_example_runs(
    kind: str,
    packages: Mapping[str, Begun],
    meds: Callable[..., Finished],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    package = packages[kind]
    monkeypatch.chdir(package.folder)
    example = f"examples/{package.name}.yaml"
    assert package.name in types_of(yaml.safe_load(Path(example).read_text(encoding="utf-8")))
    stages = yaml.safe_load(Path(example).read_text(encoding="utf-8"))["stages"]
    short = [f"stages.{stage['type']}.iterations=2" for stage in stages if "iterations" in stage]
    sets = [text for value in ("threads=1", "precision=fp32", *short) for text in ("--set", value)]
    done = meds("run", example, "--runs-dir", tmp_path, *sets)
    assert done.code == 0, done.err
    assert (tmp_path / package.name / "metrics.json").is_file()


def types_of(block: Any) -> set[str]:
    """Every `type:` within a spec."""
    inner = list(block.values()) if isinstance(block, dict) else block if isinstance(block, list) else []
    own = {str(block["type"])} if isinstance(block, dict) and "type" in block else set()
    return own.union(*map(types_of, inner))


def test_its_own_tests_pass(packages: Mapping[str, Begun], tmp_path: Path) -> None:
    # The kits have run above, where one process serves them all.
    own = "not (" + " or ".join(package.kit().__name__ for package in packages.values()) + ")"
    files = [str(package.tests) for package in packages.values()]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", own, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    counted = sum(len(package.kit().checks) for package in packages.values())
    assert f"{counted} deselected" in done.stdout


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("arguments", [("check", "--select=E,F,I,UP,B,SIM,ANN"), ("format", "--check")])
def test_its_code_is_clean(kind: str, arguments: tuple[str, ...], packages: Mapping[str, Begun]) -> None:
    command = [sys.executable, "-m", "ruff", *arguments, "--isolated", "--no-cache", "."]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=packages[kind].folder)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", NAMES)
def test_it_builds_on_the_public_interface_only(kind: str, packages: Mapping[str, Begun]) -> None:
    for file in packages[kind].folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            taken = {name for name in names if name.split(".")[0] == "meds"}
            assert taken <= (PUBLIC if file.parent.name == "tests" else {"meds.api"}), file


@pytest.mark.parametrize("kind", NAMES)
def test_its_readme_says_how_to_check_it(kind: str, packages: Mapping[str, Begun]) -> None:
    package = packages[kind]
    lines = (package.folder / "README.md").read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line.startswith("meds ")]
    for command in commands:
        check_command(command)
    assert any(command.startswith(f"meds plugins check {package.name} ") for command in commands)
    named = [line.split("`")[1] for line in lines if line.startswith("| `")]
    assert len(named) == 4
    for path in named:
        assert (package.folder / path).exists(), path


def test_the_command_says_what_comes_next(meds: Callable[..., Finished], tmp_path: Path) -> None:
    done = meds("plugins", "new", "Selection_Rule", "half", "--folder", tmp_path / "new")
    assert done.code == 0, done.err
    written = {path.relative_to(tmp_path / "new/meds-half") for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert {line.strip() for line in done.out.splitlines()} >= {str(path) for path in written}
    assert "pip install -e . meds plugins check half meds run examples/half.yaml" in done.said
    assert "class HalfRule(SelectionRule)" in (tmp_path / "new/meds-half/src/meds_half/selection_rule.py").read_text()


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("studnet", "mine", "unknown kind of plugin 'studnet'; did you mean 'student'?"),
        ("student", "Mine", "'Mine' cannot be a plugin's name: use small letters,"),
        ("student", "my--student", "'my--student' cannot be a plugin's name"),
        ("student", "a" * 31, "at most 30 characters"),
        ("student", "true", "'true' means something else already; choose a name that tells more."),
        ("dataset", "dataset", "'dataset' means something else already"),
        ("student", "student", "'student' means something else already"),
        ("student", "rd", "The student name 'rd' is already taken by meds-ad; choose another."),
        ("detector", "rd", "The student name 'rd' is already taken by meds-ad; choose another."),
    ],
)
def test_names_that_will_not_do(
    kind: str, name: str, sentence: str, meds: Callable[..., Finished], tmp_path: Path
) -> None:
    done = meds("plugins", "new", kind, name, "--folder", tmp_path / "new")
    assert done.code == 2
    assert sentence in done.said
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_there_is_left_alone(meds: Callable[..., Finished], tmp_path: Path) -> None:
    (tmp_path / "meds-mine").mkdir()
    (tmp_path / "meds-mine/thesis.txt").write_text("years of work")
    done = meds("plugins", "new", "logger", "mine", "--folder", tmp_path)
    assert done.code == 2
    assert "meds-mine exists already; choose another name or --folder, or remove it." in done.said
    assert [path.name for path in (tmp_path / "meds-mine").iterdir()] == ["thesis.txt"]


def test_a_module_that_is_there_is_not_hidden(
    meds: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meds_taken.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    done = meds("plugins", "new", "logger", "taken", "--folder", tmp_path / "new")
    assert done.code == 2
    assert "A package 'meds_taken' is already installed; choose another name, or uninstall it." in done.said


def test_nothing_is_left_of_a_package_that_cannot_be_written(
    meds: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("meds.templates.write_example_images", no_room)
    done = meds("plugins", "new", "dataset", "full", "--folder", tmp_path / "new")
    assert done.code == 1
    assert not list((tmp_path / "new").iterdir())
