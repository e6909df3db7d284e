"""`meds store`: what is stored, how large it is and which runs use it."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from meds.cli.console import console, new_table, size


def show_store(remove_unused: bool, as_json: bool) -> None:
    """List the store, or remove what no run uses."""
    from meds.core import store_usage
    from meds.core.home import meds_home

    home = meds_home()
    things = store_usage.remove_unused(home) if remove_unused else store_usage.usage(home)
    if as_json:
        typer.echo(json.dumps([thing.as_dict() for thing in things], indent=2))
        return
    total = sum(thing.bytes for thing in things)
    if remove_unused:
        console.print(f"Removed {len(things)} things that no run uses, {size(total)}, from {home}.", soft_wrap=True)
        return
    table = new_table("kind", "name", "size", "used by")
    for thing in things:
        table.add_row(
            thing.kind, thing.name[:12], size(thing.bytes), ", ".join(Path(r).name for r in thing.runs) or "–"
        )
    console.print(table)
    console.print(f"{size(total)} in {home}", soft_wrap=True)
