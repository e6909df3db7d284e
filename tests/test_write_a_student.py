"""Follows docs/write-a-student.md word for word, in a throw-away environment that shares the installed packages."""

from __future__ import annotations

import ast
import csv
import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import meds

PAGE = Path(__file__).parents[1] / "docs" / "write-a-student.md"
# Settings of whoever runs the tests, which the reader of the page does not have.
LEFT_OUT = ("MEDS_", "PIP_", "PYTEST_", "PYTHON", "VIRTUAL_ENV", "COLUMNS", "LINES")
OFFLINE = "--no-index --no-deps --no-build-isolation"


@dataclass(frozen=True)
class Step:
    """A fenced block of the page; `file` is the name before a listing, empty for commands and their output."""

    file: str
    language: str
    text: str


def steps() -> Iterator[Step]:
    pattern = r"^(?:`([^`\n]+)`:\n\n)?```(\w+)\n(.*?)^```$"
    for file, language, text in re.findall(pattern, PAGE.read_text(encoding="utf-8"), re.M | re.S):
        yield Step(file, language, text)


def listing(file: str) -> str:
    """The text of a file that the page lists."""
    (text,) = [step.text for step in steps() if step.file == file]
    return text


class Reader:
    """Somebody with an environment and a folder, who does what the page says."""

    def __init__(self, root: Path) -> None:
        self.folder, self._environment = root / "desk", root / "environment"
        self.folder.mkdir()
        self._make_environment()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(LEFT_OUT)}
        path = f"{self._environment / 'bin'}{os.pathsep}{kept['PATH']}"
        self._settings = {**kept, "PATH": path, "MEDS_HOME": str(root / "home"), "COLUMNS": "100", "NO_COLOR": "1"}

    def _make_environment(self) -> None:
        """An environment that sees what this one sees, where `pip install` asks no package index."""
        venv.create(self._environment, symlinks=True, with_pip=False)
        packages = sysconfig.get_path("purelib", "venv", {"base": str(self._environment)})
        shared = [Path(meds.__file__).parents[1], *(Path(folder).resolve() for folder in sys.path)]
        seen = [str(path) for path in shared if path.name.endswith("-packages") or (path / "meds").is_dir()]
        (Path(packages) / "shared.pth").write_text("\n".join(dict.fromkeys(seen)), encoding="utf-8")
        for name, more in (("meds", ""), ("pip", OFFLINE)):
            script = self._environment / "bin" / name
            script.write_text(f'#!/bin/sh\nexec "{self._environment}/bin/python" -m {name} "$@" {more}\n')
            script.chmod(0o755)

    def does(self, command: str) -> str:
        """What the command prints; it must end well."""
        if command.startswith("cd "):
            self.folder /= command.removeprefix("cd ")
            return ""
        done = subprocess.run(
            ["sh", "-c", command], cwd=self.folder, env=self._settings, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def writes(self, file: str, text: str) -> None:
        """A file of the page, into a folder that is there."""
        (self.folder / file).write_text(text, encoding="utf-8")


def shape(text: str) -> list[str]:
    """Lines without figures and without the width of columns."""
    lines = (re.sub(r"─+", "─", re.sub(r"\d+(\.\d+)?", "0", line)) for line in text.splitlines())
    return [" ".join(line.split()) for line in lines if line.strip()]


def test_the_page_can_be_followed(tmp_path: Path) -> None:
    pytest.importorskip("pip", reason="the page installs a package with pip")
    reader, said = Reader(tmp_path), ""
    for step in steps():
        if step.file:
            reader.writes(step.file, step.text)
        elif step.language == "bash":
            said = "".join(reader.does(command) for command in step.text.splitlines())
        else:
            shown, found = shape(step.text), shape(said)
            assert any(found[i : i + len(shown)] == shown for i in range(len(found))), said
    # The example of the scaffold outlives what the page replaces.
    reader.does("meds plan examples/autoencoder.yaml --without-data")
    ranked, epochs = (rows(reader.folder / "runs/discs" / name) for name in ("ranking.csv", "selection.csv"))
    assert len(ranked) == 56
    assert sum(row["injected"] == "1" for row in ranked) == 16
    # The page says that few defects are selected in the end; which share exactly, depends on the processor.
    assert int(epochs[-1]["injected_selected"]) / int(epochs[-1]["selected"]) < 16 / 56 / 2


def rows(path: Path) -> list[dict[str, str]]:
    """A CSV file of a run."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_listings_are_as_short_and_clean_as_the_page_says(tmp_path: Path) -> None:
    own = 0
    for step in steps():
        if step.language == "python":
            file = tmp_path / step.file
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(step.text, encoding="utf-8")
            own += lines_of_code(step.text)
    assert f"{own} lines of code" in " ".join(PAGE.read_text(encoding="utf-8").split())
    for arguments in (["check", "--select=E,F,I,UP,B,SIM,ANN,D1", "--ignore=D107"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--isolated", "--no-cache", "."]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr


def lines_of_code(text: str) -> int:
    """Lines that hold code: no import, no docstring, no comment, no blank."""
    tree = ast.parse(text)
    left_out: set[int] = set()
    for node in ast.walk(tree):
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if docstring or isinstance(node, (ast.Import, ast.ImportFrom)):
            left_out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(text.splitlines(), start=1)
    return sum(bool(line.split("#")[0].strip()) for number, line in lines if number not in left_out)
