"""A MEDS_HOME of its own for each test."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MEDS_TRACEBACK", "MEDS_PLUGINS", "MEDS_CACHE_GIB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MEDS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
