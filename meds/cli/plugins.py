"""`meds plugins`: lists what is plugged in, and what could not be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from meds.cli.console import console, new_table

if TYPE_CHECKING:
    from meds.core.registry import Registration, Registry

WIDTH_FOR_MODULES, WIDTH_FOR_SUMMARIES = 120, 180


def show_plugins(as_json: bool) -> None:
    """Print all plugins; broken ones with their error."""
    from meds.core.registry import registry

    found = registry()
    rows = [_row(registration, found) for registration in found.all()]
    broken: list[dict[str, str | None]] = [
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
        cells = {**row, "from": (row["from"] or "").partition(":")[0]}
        table.add_row(*(cells.get(key) or "" for key in columns))
    console.print(table)
    if "from" not in columns:
        console.print(f"Where each is loaded from: in a terminal of {WIDTH_FOR_MODULES} columns, or with --json.")
    for name, item in [
        *((f"{row['kind']} {row['name']}", row) for row in rows if row["error"]),
        *((item["entry_point"], item) for item in broken),
    ]:
        console.print(f"broken: {name} of {item['package']}: {item['error']}", soft_wrap=True)


def _row(found: Registration, known: Registry) -> dict[str, str | None]:
    """What is told of a plugin that a hook returned; it is broken if that much can be told without loading it."""
    error = known.fault(found)
    return {
        "name": found.plugin.name,
        "kind": found.kind,
        "package": found.package,
        "version": found.package_version,
        "from": found.plugin.load,
        "state": "broken" if error else "ok",
        "summary": found.plugin.summary,
        "error": error,
    }


def _columns() -> list[str]:
    """What there is room for."""
    columns = ["kind", "name", "package", "version", "state"]
    if console.width >= WIDTH_FOR_MODULES:
        columns.insert(-1, "from")
    return [*columns, *(["summary"] if console.width >= WIDTH_FOR_SUMMARIES else [])]
