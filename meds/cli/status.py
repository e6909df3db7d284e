"""`meds status`: how far a run is."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from meds.cli.console import console, duration, new_table, say_heading, size
from meds.cli.results import show_metrics


def show_status(run: Path, as_json: bool) -> None:
    """Print a run's stages with their cost, and its metrics if there are any."""
    from meds.core.run_again import run_again
    from meds.core.run_directory import METRICS, RunDirectory, read_json
    from meds.core.run_notes import remember_opened

    directory = RunDirectory(run)
    state = directory.read_state()
    remember_opened(run, state)
    if state["status"] == "running" and not directory.is_in_use():
        state["status"] = "stopped"
    if as_json:
        typer.echo(json.dumps(state, indent=2, ensure_ascii=False))
        return
    say_heading(state["name"], f": {state['status']}, on {state['device']}")
    table = new_table("stage", "status", "time", "processor", "peak memory", "size")
    for row in state["stages"]:
        cost = row["cost"]
        shown = (
            [
                duration(cost["wall_s"]),
                duration(cost["cpu_s"]),
                f"{cost['peak_rss_mib']:.0f} MiB",
                size(cost["bytes"]),
            ]
            if cost
            else ["", "", "", ""]
        )
        table.add_row(row["name"], row["status"], *shown)
    console.print(table)
    if state["status"] == "stopped":
        console.print(f"Nothing runs it any more; continue with `{run_again(run, state['name'])}`.", soft_wrap=True)
    elif state.get("error"):
        console.print(f"error: {state['error']}", soft_wrap=True)
    metrics = run / "metrics.json"
    if metrics.is_file() and state["status"] == "done":
        show_metrics(read_json(metrics, METRICS))
