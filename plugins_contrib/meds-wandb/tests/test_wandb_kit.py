"""The conformance kit on the run logger `wandb`, which writes files only."""

from __future__ import annotations

import pytest

from meds.testing import RunLoggerKit


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")


class TestWandb(RunLoggerKit):
    name = "wandb"
