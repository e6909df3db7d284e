"""`meds plugins`: lists what is plugged in, and what could not be."""

from __future__ import annotations

import json

import typer

from meds.cli.console import console, new_table

WIDTH_FOR_SUMMARIES = 120


def show_plugins(as_json: bool) -> None:
    """Print all plugins; broken ones with their error."""
    from meds.core.registry import registry

    found = registry()
    rows = [
        {
            "name": r.plugin.name,
            "kind": r.kind,
            "package": r.package,
            "version": r.package_version,
            "from": r.plugin.load,
            "state": "ok",
            "summary": r.plugin.summary,
        }
        for r in found.all()
    ]
    broken = [
        {
            "entry_point": b.entry_point,
            "package": b.package,
            "version": b.package_version,
            "state": "broken",
            "error": b.error,
        }
        for b in found.broken
    ]
    if as_json:
        typer.echo(json.dumps({"plugins": rows, "broken": broken}, indent=2, ensure_ascii=False))
        return
    wide = console.width >= WIDTH_FOR_SUMMARIES
    table = new_table("kind", "name", "package", "version", "state", *(["what it is"] if wide else []))
    for row in rows:
        facts = (row[key] for key in ("kind", "name", "package", "version", "state"))
        table.add_row(*facts, *([row["summary"]] if wide else []))
    for item in broken:
        table.add_row("", item["entry_point"], item["package"], item["version"], item["state"])
    console.print(table)
    for item in broken:
        console.print(
            f"broken: {item['entry_point']} of {item['package']}: {item['error']}",
            soft_wrap=True,
            markup=False,
        )
