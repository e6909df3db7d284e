"""`meds plugins`: lists what is plugged in, and what could not be."""

from __future__ import annotations

import json

import typer

from meds.cli.console import console, new_table

WIDTH_FOR_MODULES, WIDTH_FOR_SUMMARIES = 120, 180


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
            "from": b.module,
            "state": "broken",
            "error": b.error,
        }
        for b in found.broken
    ]
    if as_json:
        typer.echo(json.dumps({"plugins": rows, "broken": broken}, indent=2, ensure_ascii=False))
        return
    columns = _columns()
    table = new_table(*columns)
    for row in [*rows, *({**item, "name": item["entry_point"]} for item in broken)]:
        table.add_row(*(row.get(key, "").partition(":")[0] if key == "from" else row.get(key, "") for key in columns))
    console.print(table)
    if "from" not in columns:
        console.print(f"Where each is loaded from: in a terminal of {WIDTH_FOR_MODULES} columns, or with --json.")
    for item in broken:
        console.print(
            f"broken: {item['entry_point']} of {item['package']}: {item['error']}",
            soft_wrap=True,
            markup=False,
        )


def _columns() -> list[str]:
    """What there is room for."""
    columns = ["kind", "name", "package", "version", "state"]
    if console.width >= WIDTH_FOR_MODULES:
        columns.insert(-1, "from")
    return [*columns, *(["summary"] if console.width >= WIDTH_FOR_SUMMARIES else [])]
