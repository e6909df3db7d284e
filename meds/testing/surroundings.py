"""What a check runs in: random generators, threads and settings of its own, and a folder that goes away with it."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

SETTINGS = ("MEDS_CACHE_GIB", "MEDS_CHECKPOINT_SECONDS")


@contextmanager
def own_surroundings() -> Iterator[None]:
    """One thread, no settings of the user's, and generators that are put back afterwards."""
    threads, settings = torch.get_num_threads(), {name: os.environ.pop(name, None) for name in SETTINGS}
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.set_num_threads(1)
            torch.manual_seed(0)
            yield
    finally:
        torch.set_num_threads(threads)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        _set(settings)


@contextmanager
def checkpoint_at_every_step() -> Iterator[None]:
    """Trainings inside write a checkpoint after every step."""
    before = {"MEDS_CHECKPOINT_SECONDS": os.environ.get("MEDS_CHECKPOINT_SECONDS")}
    _set({"MEDS_CHECKPOINT_SECONDS": "0"})
    try:
        yield
    finally:
        _set(before)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """An empty folder."""
    with tempfile.TemporaryDirectory(prefix="meds-testing-") as name:
        yield Path(name)


def _set(settings: dict[str, str | None]) -> None:
    for name, value in settings.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
