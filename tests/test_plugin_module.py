"""A plugin's module is looked for without being imported: what is found, what is missing, and how it is said."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from meds.core.plugin_module import module_fault
from meds.core.registry import registry

MISSING = "ModuleNotFoundError: No module named "


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages: one that must not be imported, a namespace within a namespace, one that lengthens its own path."""
    for folder in ("dear/deep", "shared_space/inner", "lengthening", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "dear/__init__.py").write_text("raise RuntimeError('imported')\n")
    (tmp_path / "dear/deep/__init__.py").touch()
    for module in ("dear/deep/student", "shared_space/inner/student", "elsewhere/student"):
        (tmp_path / f"{module}.py").write_text("raise RuntimeError('imported')\n")
    (tmp_path / "lengthening/__init__.py").write_text(f"__path__.append({str(tmp_path / 'elsewhere')!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("module", ["dear.deep.student", "dear", "shared_space.inner.student", "lengthening.student"])
def test_a_module_that_is_there_is_not_imported(site: Path, module: str) -> None:
    assert module_fault(f"{module}:Student") is None
    assert module not in sys.modules


@pytest.mark.parametrize(
    ("load", "fault"),
    [
        ("nowhere:Student", f"{MISSING}'nowhere'"),
        ("nowhere.at_all:Student", f"{MISSING}'nowhere'"),
        ("shared_space.inner.students:Student", f"{MISSING}'shared_space.inner.students'"),
        ("lengthening.students:Student", f"{MISSING}'lengthening.students'"),
        ("dear.deep.students:Student", "RuntimeError: imported"),
        ("json.decoder.inner:Student", f"{MISSING}'json.decoder.inner'"),
        ("json", "what it is loaded from must read 'package.module:Class', not 'json'"),
        (":Student", "what it is loaded from must read 'package.module:Class', not ':Student'"),
    ],
)
def test_a_module_that_is_missing_is_named(site: Path, load: str, fault: str) -> None:
    found = module_fault(load)
    assert found is not None
    assert found.startswith(fault)


def test_every_installed_plugin_of_meds_has_its_module() -> None:
    assert not [item.plugin.name for item in registry().all() if module_fault(item.plugin.load)]
