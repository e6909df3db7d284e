"""`meds plugins check`: runs the conformance kit on an installed plugin."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from meds.cli.console import ConsoleReporter, console, new_table

if TYPE_CHECKING:
    from meds.testing.checking import Outcome

COLOURS = {"passed": "green", "failed": "red", "left out": "yellow"}


def check_plugin(name: str, sets: Sequence[str], kind: str | None, backbone: str | None, as_json: bool) -> None:
    """Print how every check ended; exit code 1 if one failed."""
    from meds.core.registry import registry

    found = registry().find(name, kind)
    from meds.testing.checking import kit_for, run_checks

    kit = kit_for(found, sets, backbone)
    outcomes = []
    if as_json:
        outcomes = list(run_checks(kit))
        typer.echo(json.dumps([asdict(outcome) for outcome in outcomes], indent=2, ensure_ascii=False))
    else:
        with ConsoleReporter().bar(f"{found.kind} {name}", len(kit.checks)) as bar:
            for outcome in run_checks(kit):
                outcomes.append(outcome)
                bar.advance(1, note=outcome.check)
        _show(outcomes)
    if any(outcome.result == "failed" for outcome in outcomes):
        raise typer.Exit(1)


def _show(outcomes: Sequence[Outcome]) -> None:
    """A table of all checks; below it a sentence for each that failed or was left out."""
    table = new_table("check", "result", "seconds", numbers=("seconds",))
    for outcome in outcomes:
        table.add_row(outcome.check, Text(outcome.result, COLOURS[outcome.result]), f"{outcome.seconds:.1f}")
    console.print(table)
    for outcome in outcomes:
        if outcome.sentence:
            label = f"{outcome.check}{': left out' if outcome.result == 'left out' else ''}"
            console.print(Text.assemble((label, "bold"), f": {outcome.sentence}"), soft_wrap=True)
    counts = {result: sum(outcome.result == result for outcome in outcomes) for result in COLOURS}
    console.print(", ".join(f"{count} {result}" for result, count in counts.items() if count) + ".")
