"""The documentation's examples: specs resolve, commands work or at least parse, every link leads somewhere."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_lines import OPTIONS, UnknownCommandError, check_command
from pages import fenced_blocks
from typer.testing import CliRunner

from meds.cli.app import app
from meds.core.pipeline import Pipeline
from meds.core.registry import load_registry
from meds.core.reporter import SilentReporter
from meds.core.runner import Runner, RunRequest
from meds.core.spec import load_spec, resolve_spec
from meds.core.spec_source import SpecSource, parse_spec

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
FOLLOWED = {"tutorial", "write-a-student"}
"""Pages whose blocks build on one another; a test of their own follows them."""
ALONE = [page for page in PAGES if page.stem not in FOLLOWED]
PACKAGES = sorted(path.parent for path in ROOT.glob("plugins_contrib/*/pyproject.toml"))
MORE_PAGES = [*ROOT.glob("benchmarks/*.md"), *(package / "README.md" for package in PACKAGES)]
EXAMPLES = sorted(ROOT.glob("examples/**/*.yaml"))
AROUND = {"name": "part", "dataset": {"type": "synthetic"}, "backbone": {"type": "efficientnet-lite0"}}
"""What a page leaves out of a spec that it shows in part."""
SCRIPTS = [*PAGES, *MORE_PAGES, *EXAMPLES, *sorted(ROOT.glob("plugins_contrib/*/examples/*.yaml"))]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in a language, without their indent."""
    return [text for found, text in fenced_blocks(page) if found == language]


def command_lines(text: str) -> Iterator[str]:
    """Command lines of meds in fenced blocks, in indented ones and in the comments of a spec."""
    fenced = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or re.match(r" {4}|# {2,}", line):
            parts = [re.match(r"[# ]*(?:\S*/)?(meds [a-z-].*)", part) for part in line.split("&&")]
            yield from (part[1] for part in parts if part)


def mentions(text: str, start: str) -> Iterator[str]:
    """What stands in backticks within a sentence or a table and begins in that way, lines joined."""
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
    yield from (" ".join(found.split()) for found in re.findall(rf"`({start}[^`]*)`", prose))


def of_folder(page: Path) -> str:
    """A page's name with its folder, for the names of tests."""
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.stem)
def test_examples_resolve(example: Path) -> None:
    spec = load_spec(example, load_registry())
    assert yaml.safe_load(spec.to_yaml())["name"] == spec.name


@pytest.mark.parametrize("page", ALONE, ids=lambda p: p.stem)
def test_specs_of_a_page_resolve(page: Path) -> None:
    for text in blocks(page, "yaml"):
        if "stages:" in text:
            assert resolve_spec(parse_spec(text, page.name), load_registry()).stages


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_specs_of_the_packages_beside_meds_resolve(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(package / "src"))
    found = load_registry()
    if not any(item.package == package.name for item in found.all()):
        project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for module in project["entry-points"]["meds"].values():
            found.register_module(importlib.import_module(module), package.name, project["version"])
    assert not [broken for broken in found.broken if broken.package == package.name]
    specs = [text for text in blocks(package / "README.md", "yaml") if "stages:" in text]
    specs += [example.read_text(encoding="utf-8") for example in package.glob("examples/*.yaml")]
    assert specs
    for text in specs:
        assert resolve_spec(SpecSource(package.name, AROUND | yaml.safe_load(text)), found).stages


@pytest.mark.parametrize("page", ALONE, ids=lambda p: p.stem)
def test_meds_commands_of_a_page_work(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEDS_HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    for text in blocks(page, "bash"):
        for line in text.splitlines():
            if line.startswith("meds "):
                result = CliRunner().invoke(app, shlex.split(line)[1:])
                assert result.exit_code == 0, result.output


@pytest.mark.parametrize("page", SCRIPTS, ids=of_folder)
def test_meds_knows_the_commands_that_a_page_names(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for line in command_lines(text):
        check_command(line)
    if page.suffix == ".md":
        for mention in mentions(text, "meds [a-z-]"):
            check_command(mention, whole=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_meds_has_the_options_that_a_page_names(page: Path) -> None:
    named = {re.split("[ =]", mention)[0] for mention in mentions(page.read_text(encoding="utf-8"), "--")}
    assert named <= OPTIONS


@pytest.mark.parametrize("page", [*PAGES, *MORE_PAGES], ids=of_folder)
def test_yaml_of_a_page_is_yaml(page: Path) -> None:
    for text in blocks(page, "yaml"):
        assert isinstance(yaml.safe_load(text), dict)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("meds rnu spec.yaml", "No such command 'rnu'"),
        ("meds plugins chek rd", "No such command 'chek'"),
        ("meds run spec.yaml --sett a=1", "No such option: --sett"),
        ("meds plan", "Missing argument 'SPEC'"),
        ("meds run one.yaml two.yaml", "unexpected extra argument"),
        ("meds rank run [--top many]", "Invalid value for '--top'"),
    ],
)
def test_a_wrong_command_line_is_found(line: str, sentence: str) -> None:
    page = f"Do it:\n\n    cd here && .venv/bin/{line}  # a comment\n"
    (found,) = command_lines(page)
    with pytest.raises(UnknownCommandError, match=re.escape(sentence)):
        check_command(found)
    check_command("meds plan", whole=False)


@pytest.mark.parametrize("page", ALONE, ids=lambda p: p.stem)
def test_python_of_a_page_compiles_and_imports(page: Path) -> None:
    for text in blocks(page, "python"):
        exec(compile(text, page.name, "exec"), {})


@pytest.mark.parametrize("stages", ["plain", "meds"])
def test_the_student_of_contributing_runs(
    stages: str, tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    student, registration = blocks(ROOT / "CONTRIBUTING.md", "python")[:2]
    package = tmp_path / "squeeze"
    package.mkdir()
    (package / "student.py").write_text(student, encoding="utf-8")
    (package / "__init__.py").write_text(registration, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("squeeze", "squeeze.student"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    found = load_registry()
    found.register_module(importlib.import_module("squeeze"), "squeeze", "1")
    assert "squeeze.student" not in sys.modules  # nor torch with it, as a kit demands
    assert not found.broken
    data = tiny_spec | {"student": {"type": "squeeze", "width": 4}}
    if stages == "plain":
        data["stages"] = [{"type": "fit", "iterations": 6, "batch_size": 4}, data["stages"][-1]]
    pipeline = Pipeline(resolve_spec(SpecSource("spec", data), found), found)
    metrics = Runner(pipeline, RunRequest(tmp_path / "run"), SilentReporter()).run()
    assert metrics is not None
    assert 0 <= metrics["mean"]["image_auroc"] <= 1


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_readme_and_continuous_integration_run_the_same_test_command() -> None:
    command = next(b for b in blocks(ROOT / "README.md", "bash") if "pytest" in b).strip()
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
