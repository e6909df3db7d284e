"""`meds store`: what is stored, how large it is and which runs use it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from meds.cli.console import console, new_table, size
from meds.core.units import NOTHING

if TYPE_CHECKING:
    from meds.core.store_usage import StoredThing


def show_store(remove_unused: bool, forget_missing: bool, as_json: bool) -> None:
    """List the store, or remove what no run uses; before that, perhaps forget runs whose directories are gone."""
    from meds.core import store_usage
    from meds.core.home import meds_home

    home = meds_home()
    forgotten = store_usage.forget_missing(home) if forget_missing else []
    things = store_usage.remove_unused(home) if remove_unused else store_usage.usage(home)
    if as_json:
        typer.echo(json.dumps([thing.as_dict() for thing in things], indent=2))
        return
    if forgotten:
        console.print(f"Nothing is kept any more for runs that were in: {', '.join(forgotten)}", soft_wrap=True)
    total = size(sum(thing.bytes for thing in things))
    if remove_unused:
        console.print(f"Removed {len(things)} things that no run uses, {total}, from {home}.", soft_wrap=True)
    else:
        _list(things)
        console.print(f"{total} in {home}", soft_wrap=True)
    _say_missing(store_usage.usage(home) if remove_unused else things)


def _list(things: Sequence[StoredThing]) -> None:
    table = new_table("kind", "name", "size", "used by")
    for thing in things:
        users = [Path(run).name for run in thing.runs] or [f"{Path(run).name} (gone)" for run in thing.missing_runs]
        table.add_row(thing.kind, thing.name[:12], size(thing.bytes), ", ".join(users) or NOTHING)
    console.print(table)


def _say_missing(things: Sequence[StoredThing]) -> None:
    """Name the missing runs that something is kept for, and say how to have them found or forgotten."""
    kept = [thing for thing in things if thing.only_for_missing]
    if not kept:
        return
    total = size(sum(thing.bytes for thing in kept))
    console.print(f"Kept for runs that are not where they were, {total}:", soft_wrap=True)
    for run in sorted({run for thing in kept for run in thing.missing_runs}):
        console.print(f"  {run}", soft_wrap=True)
    console.print(
        "Where one was moved, `meds status RUN` with its new place has it found; if all of them were deleted, "
        "`meds store --remove-unused --forget-missing` frees the space.",
        soft_wrap=True,
    )
