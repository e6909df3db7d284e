"""`meds plugins show`: one plugin with all its options."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import typer
from rich.padding import Padding
from rich.text import Text

from meds.cli.console import console, say_heading


def show_plugin(name: str, kind: str | None, as_json: bool) -> None:
    """Print where a plugin comes from, and type, default and meaning of every option."""
    from meds.core.describe import describe_options
    from meds.core.registry import registry

    known = registry()
    found = known.find(name, kind)
    error = known.fault(found)
    options = describe_options(found.plugin.options)
    facts: dict[str, Any] = {
        "name": found.plugin.name,
        "kind": found.kind,
        "summary": found.plugin.summary,
        "package": found.package,
        "version": found.package_version,
        "class": found.plugin.load,
        "state": "broken" if error else "ok",
        "error": error,
        "recipes": found.plugin.recipes,
        "selecting": found.plugin.selecting,
        "stage_recipes": found.plugin.stage_recipes,
        "options": [asdict(option) for option in options],
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False, default=str))
        return
    _line(f"{found.kind} {found.plugin.name}", found.plugin.summary)
    _line("package", f"{found.package} {found.package_version}")
    _line("class", found.plugin.load)
    if error:
        _line("broken", error)
    for recipe, values in found.plugin.recipes.items():
        _line(f"recipe {recipe}", _values(values))
    if found.plugin.selecting:
        _line("where images are selected", _values(found.plugin.selecting))
    for recipe, stages in found.plugin.stage_recipes.items():
        for stage, values in stages.items():
            _line(f"recipe {recipe}, stage {stage}", _values(values))
    if options:
        say_heading("\nOptions")
    else:
        console.print("\nIt has no options.")
    for option in options:
        _line(option.name, f"{option.type} ({option.default_text})")
        console.print(Padding(Text(option.meaning), (0, 0, 0, 4)))


def _line(label: str, text: str) -> None:
    console.print(Text.assemble((label, "bold"), ": ", text), soft_wrap=True)


def _values(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False, default=str)}" for key, value in values.items())
