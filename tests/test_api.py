"""The public interface: its lists agree with each other and with the page about it, and it imports no torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

import meds.api
from meds.core import hookspecs
from meds.core.registry import KINDS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "plugin-api.md").read_text(encoding="utf-8")


def imported_for_type_checkers() -> dict[str, str]:
    """Public name -> module, as the `if TYPE_CHECKING` block of meds/api.py imports them."""
    found: dict[str, str] = {}
    for statement in ast.parse(Path(meds.api.__file__).read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            for line in statement.body:
                assert isinstance(line, ast.ImportFrom)
                found |= {name.asname or name.name: str(line.module) for name in line.names}
    return found


def rows_of_the_page() -> list[str]:
    """What stands in backticks in the first cell of every table row."""
    return re.findall(r"^\| `([^`]+)` \|", PAGE, re.M)


def test_all_table_and_type_checking_imports_name_the_same_things() -> None:
    table = {name: module for module, names in meds.api._MODULES.items() for name in names}
    assert table == imported_for_type_checkers()
    assert sorted(meds.api.__all__) == sorted(table) == dir(meds.api)
    assert len(set(meds.api.__all__)) == len(meds.api.__all__)


@pytest.mark.parametrize("name", meds.api.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(meds.api, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"meds\.api has no public name 'Studnet'"):
        _ = meds.api.Studnet


def test_importing_it_and_writing_hooks_and_options_imports_no_torch() -> None:
    code = (
        "import sys, meds.api\nfrom meds.api import API_VERSION, DatasetOptions, Options, Plugin, hookimpl\n"
        "print([name for name in ('torch', 'timm', 'torchvision') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_page_has_one_row_for_every_public_name() -> None:
    rows = [row for row in rows_of_the_page() if not row.startswith(("meds_", "Plugin."))]
    assert sorted(rows) == sorted(meds.api.__all__)


def test_the_page_has_one_row_for_every_field_of_a_plugin() -> None:
    rows = [row.removeprefix("Plugin.") for row in rows_of_the_page() if row.startswith("Plugin.")]
    wanted = fields(meds.api.Plugin)
    assert sorted(rows) == sorted(field.name for field in wanted)
    needed = [f.name for f in wanted if f.default is MISSING and f.default_factory is MISSING]
    assert rows[: len(needed)] == needed == [field.name for field in wanted[: len(needed)]]


def test_the_page_has_one_row_for_every_hook() -> None:
    hooks = [name for name in vars(hookspecs) if name.startswith("meds_")]
    assert [row for row in rows_of_the_page() if row.startswith("meds_")] == hooks
    assert sorted(hooks) == sorted(KINDS.values())


def test_the_page_tells_the_version() -> None:
    assert f"MEDS_API = {meds.api.API_VERSION}" in PAGE
