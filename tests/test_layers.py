"""Every module imports only what the table in CONTRIBUTING.md lets its folder import."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import meds

ROOT = Path(meds.__file__).parent
ALLOWED = {
    "core": {"core"},
    "stages": {"core", "stages"},
    "patch_memory": {"core", "patch_memory"},
    "plugins": {"core", "plugins"},
    "comparison": {"core", "comparison"},
    "reports": {"core", "comparison", "reports"},
    "review": {"core", "reports", "review"},
    "export": {"core", "export"},
    "layouts": {"core", "layouts", "plugins.datasets"},
    "testing": {"core", "testing"},
    "templates": {"core", "api", "templates"},
    "cli": {"core", "comparison", "reports", "review", "export", "layouts", "testing", "templates", "cli"},
}


def imported(file: Path) -> set[str]:
    """The modules of meds that a file imports, without "meds."."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "meds":
            found |= {f"meds.{alias.name}" for alias in node.names} - {"meds.__version__"}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.removeprefix("meds.") for name in found if name.startswith("meds.")}


def test_every_folder_is_in_the_table() -> None:
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == set(ALLOWED)
    text = (ROOT.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert {name for name in ALLOWED if f"| `meds/{name}` |" in text} == set(ALLOWED)


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports(folder: str) -> None:
    for file in (ROOT / folder).rglob("*.py"):
        for name in imported(file):
            allowed = any(name == other or name.startswith(f"{other}.") for other in ALLOWED[folder])
            assert allowed, f"{file.relative_to(ROOT.parent)} imports meds.{name}"
