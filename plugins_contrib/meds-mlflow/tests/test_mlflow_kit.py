"""The conformance kit on the run logger `mlflow`, with a database of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from meds.testing import RunLoggerKit


@pytest.fixture(autouse=True)
def own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)


class TestMlflow(RunLoggerKit):
    name = "mlflow"
