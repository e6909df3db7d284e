"""The documentation's examples: every spec resolves, every meds command works, every link leads somewhere."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from meds.cli.app import app
from meds.core.pipeline import Pipeline
from meds.core.registry import load_registry
from meds.core.runner import Runner, RunRequest
from meds.core.spec import load_spec, resolve_spec
from meds.core.spec_source import SpecSource, parse_spec
from meds.core.stage import SilentReporter

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
# Their commands build on one another: a test of its own follows each of them from top to bottom.
FOLLOWED = [ROOT / "docs" / "tutorial.md"]
ALONE = [page for page in PAGES if page not in FOLLOWED]
EXAMPLES = sorted(ROOT.glob("examples/**/*.yaml"))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in a language, without their indent."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.M | re.S)
    return [re.sub(rf"^{indent}", "", text, flags=re.M) for indent, text in found]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.stem)
def test_examples_resolve(example: Path) -> None:
    spec = load_spec(example, load_registry())
    assert yaml.safe_load(spec.to_yaml())["name"] == spec.name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_specs_of_a_page_resolve(page: Path) -> None:
    for text in blocks(page, "yaml"):
        if "stages:" in text:
            assert resolve_spec(parse_spec(text, page.name), load_registry()).stages


@pytest.mark.parametrize("page", ALONE, ids=lambda p: p.stem)
def test_meds_commands_of_a_page_work(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEDS_HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    for text in blocks(page, "bash"):
        for line in text.splitlines():
            if line.startswith("meds "):
                result = CliRunner().invoke(app, shlex.split(line)[1:])
                assert result.exit_code == 0, result.output


@pytest.mark.parametrize("page", ALONE, ids=lambda p: p.stem)
def test_python_of_a_page_compiles_and_imports(page: Path) -> None:
    for text in blocks(page, "python"):
        exec(compile(text, page.name, "exec"), {})


@pytest.mark.parametrize("stages", ["plain", "meds"])
def test_the_student_of_contributing_runs(
    stages: str, tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = next(b for b in blocks(ROOT / "CONTRIBUTING.md", "python") if "class Squeeze(Student)" in b)
    (tmp_path / "squeeze.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "squeeze", raising=False)
    found = load_registry()
    found.register_module(importlib.import_module("squeeze"), "squeeze", "1")
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
