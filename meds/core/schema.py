"""The JSON schema of a spec, installed plugins included."""

from __future__ import annotations

from typing import Any

from meds.core.registry import Registry
from meds.core.spec import SpecModel

_BLOCKS = {"dataset": "dataset", "noise": "noise protocol", "backbone": "backbone", "student": "student"}


def spec_schema(registry: Registry) -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a spec; each block is one of the installed plugins' options."""
    schema = SpecModel.model_json_schema()
    definitions: dict[str, Any] = schema.setdefault("$defs", {})
    properties = schema["properties"]
    for key, kind in _BLOCKS.items():
        block = _choices(registry, kind, definitions)
        if key == "noise":
            block = {"anyOf": [block, {"type": "null"}]}
        properties[key] = {"description": properties[key].get("description", ""), **block}
    for key, kind in (("stages", "stage"), ("loggers", "logger")):
        properties[key]["items"] = _choices(registry, kind, definitions)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _choices(registry: Registry, kind: str, definitions: dict[str, Any]) -> dict[str, Any]:
    choices = []
    for name in registry.names(kind):
        plugin = registry.get(kind, name).plugin
        # Two plugins may each have a model of the same name inside.
        prefix = f"{kind}-{name}-".replace(" ", "-")
        options = plugin.options.model_json_schema(ref_template=f"#/$defs/{prefix}{{model}}")
        definitions.update({f"{prefix}{key}": value for key, value in options.pop("$defs", {}).items()})
        options["properties"] = {"type": {"const": name}, **options.get("properties", {})}
        for key, value in options["properties"].items():
            if "plugin" in value:
                about = {k: value[k] for k in ("description", "default") if k in value}
                options["properties"][key] = {**about, **_choices(registry, value["plugin"], definitions)}
        if kind == "stage":
            options["properties"]["name"] = {
                "type": "string",
                "description": "Name of the stage's directory.",
            }
        needed = [] if kind == "noise protocol" else ["type"]
        options["required"] = [*needed, *options.get("required", [])]
        options["title"], options["description"] = name, plugin.summary
        choices.append(options)
    return {"anyOf": choices}
