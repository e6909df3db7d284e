"""Trees of small images for the tests of `meds init`, and what it writes for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from conftest import Finished
from PIL import Image

from meds.core.dataset import Record
from meds.core.registry import load_registry
from meds.core.spec import load_spec


def put(*paths: Path, size: tuple[int, int] = (40, 30)) -> None:
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 255, (size[1], size[0]), dtype=np.uint8)
        Image.fromarray(noise).save(path)


def images(folder: Path, count: int = 4) -> list[Path]:
    return [folder / f"{i:02}.png" for i in range(count)]


def written(meds: Callable[..., Finished], folder: Path, *more: object) -> tuple[dict, str]:
    path = folder.parent / "out.yaml"
    done = meds("init", folder, "--output", path, *more)
    assert done.code == 0, done.err
    assert load_spec(path, load_registry()).name
    return yaml.safe_load(path.read_text()), done.said


def records(spec_file: Path) -> list[Record]:
    """What the dataset of a written spec reads."""
    block = load_spec(spec_file, load_registry()).dataset
    return list(block.registration.load()(block.options).records())


def found(spec_file: Path) -> set[tuple[str, str, int | None, str]]:
    """What the dataset of a written spec makes of the folder: class, split, label and defect of its images."""
    return {(r.class_name, r.split, r.label, r.defect) for r in records(spec_file)}
