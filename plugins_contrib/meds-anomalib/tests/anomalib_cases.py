"""What the tests share: the two commands run in this process, a spec, and images on disk."""

from __future__ import annotations

import io
import runpy
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

needs_anomalib = pytest.mark.skipif(
    find_spec("anomalib") is None, reason="anomalib is not installed here; see the README for how to install it"
)


@dataclass(frozen=True)
class Finished:
    """How a command ended: its exit code, and all that it printed on one line."""

    code: int
    said: str


def _run(call: Callable[[], object], name: str, arguments: tuple[object, ...]) -> Finished:
    out, code = io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(out), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        try:
            call()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return Finished(code, " ".join(out.getvalue().split()))


def meds(*arguments: object) -> Finished:
    """The command `meds`."""
    return _run(lambda: runpy.run_module("meds", run_name="__main__"), "meds", arguments)


def meds_anomalib(*arguments: object) -> Finished:
    """The command `meds-anomalib`."""
    from meds_anomalib.command import main

    return _run(main, "meds-anomalib", arguments)


def spec(**changes: object) -> dict[str, object]:
    """A run of the student `anomalib` on a few drawn images."""
    return {
        "name": "tiny",
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "dataset": {
            "type": "synthetic",
            "classes": ["weave"],
            "train": 8,
            "test_normal": 4,
            "test_defective": 4,
            "image_size": 64,
        },
        "noise": {"ratio": 0.25},
        "backbone": {"type": "pixels", "image_size": 64},
        "student": {"type": "anomalib", "model": "Padim", "pre_trained": False, "batch_size": 4},
        "stages": [{"type": "fit"}, {"type": "evaluate"}],
        **changes,
    }


def run_spec(folder: Path, data: dict[str, object]) -> Finished:
    """`meds run` of a spec below a folder."""
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return meds("run", path, "--runs-dir", folder / "runs")


def draw(path: Path, seed: int, size: int = 32) -> Path:
    """An image file of random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def draw_mask(path: Path, side: int, size: int = 32) -> Path:
    """A mask file with a white square of `side` pixels, by which it can be told from others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((size, size), dtype=np.uint8)
    mask[:side, :side] = 255
    Image.fromarray(mask).save(path)
    return path
