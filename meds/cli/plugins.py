"""`meds plugins`: lists what is plugged in."""

from __future__ import annotations

import json

import typer

from meds.cli.console import console, new_table


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
    broken = [{"entry_point": b.entry_point, "package": b.package, "error": b.error} for b in found.broken]
    if as_json:
        typer.echo(json.dumps({"plugins": rows, "broken": broken}, indent=2, ensure_ascii=False))
        return
    table = new_table("kind", "name", "package", "version", "what it is")
    for row in rows:
        table.add_row(row["kind"], row["name"], row["package"], row["version"], row["summary"])
    console.print(table)
    for item in broken:
        console.print(
            f"broken: {item['entry_point']} of {item['package']}: {item['error']}",
            soft_wrap=True,
            markup=False,
        )
