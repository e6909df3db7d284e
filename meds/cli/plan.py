"""`meds plan`: what a spec would run, what is done, and what it needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from meds.cli.console import ConsoleReporter, console, duration, new_table, say_heading, size
from meds.cli.results import show_noise


def show_plan(spec_path: Path, sets: Sequence[str], as_json: bool) -> None:
    """Print the stages of a spec with their state and estimated time, disk and memory."""
    from meds.core.registry import registry
    from meds.core.spec import load_spec

    spec = load_spec(spec_path, registry(), sets)
    from meds.core.estimate import estimate
    from meds.core.pipeline import Pipeline

    pipeline = Pipeline(spec, registry(), reporter=None if as_json else ConsoleReporter())
    found = estimate(pipeline)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
        return
    data = pipeline.data
    say_heading(spec.name, f" on {found.device}")
    classes = len(data.class_names)
    console.print(f"{len(data.train)} training and {len(data.test)} test images, {classes} class{'es' * (classes > 1)}")
    show_noise(data.noise)
    table = new_table("step", "state", "time", "artifact")
    state = "done" if not found.images_to_encode else f"{found.images_to_encode} of {found.images} images to encode"
    table.add_row("features", state, duration(found.encode_seconds) if found.images_to_encode else "", "")
    for stage in found.stages:
        shown = "" if stage.done else "unknown" if stage.seconds is None else duration(stage.seconds)
        table.add_row(stage.name, "done" if stage.done else "to do", shown, stage.fingerprint[:12])
    console.print(table)
    total = found.encode_seconds + sum(stage.seconds or 0.0 for stage in found.stages)
    unknown = [f"`{stage.name}`" for stage in found.stages if stage.seconds is None and not stage.done]
    without = f" without {' and '.join(unknown)}, whose time is unknown" if unknown else " in all"
    memory = f" The memory of patches needs about {size(found.memory_bytes)} of memory." if found.memory_bytes else ""
    console.print(
        f"About {duration(total)}{without}. Features take {size(found.feature_bytes)} of disk "
        f"(limit {size(found.cache_limit_bytes)}).{memory}"
    )


def show_stages(spec_path: Path, sets: Sequence[str], as_json: bool) -> None:
    """Print what a spec says, every default written out, without looking at data or weights."""
    from meds.core.registry import registry
    from meds.core.spec import load_spec

    spec = load_spec(spec_path, registry(), sets)
    if as_json:
        typer.echo(json.dumps(spec.dump(), indent=2))
        return
    say_heading(spec.name, f", classes {spec.classes}")
    table = new_table("step", "type", "options")
    parts = [("dataset", spec.dataset), ("noise", spec.noise), ("backbone", spec.backbone), ("student", spec.student)]
    for name, block in [*parts, *((stage.name, stage) for stage in spec.stages)]:
        if block is not None:
            values = {k: v for k, v in block.dump().items() if k not in ("type", "name") and v is not None}
            table.add_row(name, block.type, ", ".join(f"{key} {_shown(value)}" for key, value in values.items()))
    console.print(table)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(_shown(part) for part in value.values())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
