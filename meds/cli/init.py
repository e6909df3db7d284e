"""`meds init`: writes a commented spec for a folder of images."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

from meds.cli.console import console
from meds.cli.output import a_file
from meds.cli.starting_points import StartingPoint, starting_point
from meds.core import files
from meds.core.contamination_estimate import FEWEST_IMAGES
from meds.core.data import MINIMUM_TRAINING_IMAGES, too_few_images
from meds.core.errors import UserError
from meds.core.image_files import one_line, printable
from meds.core.images import FULL_BITS
from meds.layouts.layout import Layout
from meds.layouts.recognise import recognise

SPEC = """\
# Written by `meds init` for {folder}
{found}
name: {name}
seed: 0

dataset: {dataset}

{source}
backbone: {backbone}

# {comment}
student: {student}

stages:
  # Scores every patch by its distance to many small random memories of the other images.
  - {memory}
  # Teaches the student those scores, ...
  - {distill}
  # ... and trains it on images that it judges to be normal itself. A tenth of them is kept for the threshold.
  - {select_finetune}
  # Share of normal images that may be called anomalous.
  - {evaluate}
"""


def write_spec(folder: Path, output: Path | None, backbone: str | None, force: bool) -> None:
    """Write the spec and say what was assumed.

    Raises:
        UserError: the file is there already, or the encoder is unknown.
        DataError: there are too few images.
    """
    start = starting_point(backbone)
    layout = recognise(folder)
    if layout.training_images < MINIMUM_TRAINING_IMAGES:
        raise too_few_images(f"The folder {folder} has", layout.training_images)
    name = _name(output.stem if output else folder.resolve().name)
    path = output or Path(f"{name}.yaml")
    if a_file(path).exists() and not force:
        raise UserError(f"{path} is there already; give another name with --output, or --force to write over it.")
    files.write_text(path, _spec(folder, name, layout, start))
    for sentence in [*layout.found, _sizes(layout)]:
        console.print(one_line(sentence), soft_wrap=True)
    if layout.training_images < FEWEST_IMAGES:
        console.print(
            f"{layout.training_images} training images of a class are few: with fewer than {FEWEST_IMAGES} no "
            "threshold can promise anything.",
            soft_wrap=True,
        )
    console.print(f"Written to {path}. Look at it, then: meds run {quote(str(path))}", soft_wrap=True)


def _spec(folder: Path, name: str, layout: Layout, start: StartingPoint) -> str:
    return SPEC.format(
        folder=printable(folder),
        found=_comments(one_line(sentence) for sentence in [*layout.found, _sizes(layout)]),
        name=_inline(name),
        dataset=_inline(layout.dataset | _reading(layout)),
        source=_comments(start.source().splitlines()),
        backbone=_inline(start.backbone),
        comment=start.comment,
        student=_inline(start.student),
        memory=_inline({"type": "memory"}),
        distill=_inline({"type": "distill", **start.distill}),
        select_finetune=_inline({"type": "select-finetune", **start.select_finetune}),
        evaluate=_inline({"type": "evaluate", "false_alarm_rate": 0.01}),
    )


def _comments(lines: Iterable[str]) -> str:
    return "\n".join(f"# {line}" for line in lines)


def _reading(layout: Layout) -> dict[str, Any]:
    """The options of the dataset that say how its files are read."""
    bits = {"bits": layout.probed.bits} if layout.probed.bits < FULL_BITS else {}
    return bits | ({} if layout.probed.readable else {"unreadable": "skip"})


def _sizes(layout: Layout) -> str:
    found = layout.probed
    if not found.sizes:
        return "None of the first images can be read."
    more = f" and {len(found.sizes) - 3} more" if len(found.sizes) > 3 else ""
    text = f"Image sizes: {', '.join(found.sizes[:3])}{more}; the encoder sees them as squares."
    if found.bits < FULL_BITS:
        text += (
            f" The grey images of 16 bits use {found.bits} of them, as from a camera of {found.bits} bits: `bits: "
            f"{found.bits}` has them read so; change it if the camera has more."
        )
    if found.paged:
        text += " Some files hold several pages, and only the first is read: save the others as files of their own."
    return text + ("" if found.readable else " Some cannot be read; they are left out and listed.")


def _name(text: str) -> str:
    """A text as the name of a run, of which its folder bears the name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._") or "images"


def _inline(value: str | Mapping[str, Any]) -> str:
    plain = dict(value) if isinstance(value, Mapping) else value
    text: str = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()
