"""`meds schema`: prints the JSON schema of a spec."""

from __future__ import annotations

import json

import typer


def print_schema() -> None:
    """Print the schema, installed plugins included."""
    from meds.core.registry import registry
    from meds.core.schema import spec_schema

    typer.echo(json.dumps(spec_schema(registry()), indent=2, ensure_ascii=False))
