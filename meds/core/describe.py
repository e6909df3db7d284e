"""Describes a plugin's options in words: type, default and meaning, read from the options model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from meds.core.registry import Options

_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
_NAMES = {"string": "text", "boolean": "true | false", "null": "null", "object": "mapping", "array": "list"}
_DEEPEST = 5


@dataclass(frozen=True)
class Option:
    """One option. `name` is dotted for a key of a nested model; `default` is plain data, None if `required`."""

    name: str
    type: str
    required: bool
    default: Any
    meaning: str

    @property
    def default_text(self) -> str:
        """The default as it would stand in a spec."""
        if self.required:
            return "required"
        text: str = yaml.safe_dump(
            self.default, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000
        )
        return f"default {text.strip().removesuffix('...').strip()}"


def describe_options(model: type[Options]) -> list[Option]:
    """All options of a model in their order, the keys of nested models right after their parent."""
    schema = model.model_json_schema()
    for name, field in model.model_fields.items():
        if field.default_factory is not None:  # which the schema leaves out
            schema["properties"][name]["default"] = field.get_default(call_default_factory=True, validated_data={})
    return list(_options(schema, schema.get("$defs", {}), ""))


def _options(schema: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str) -> Iterator[Option]:
    for name, about in schema.get("properties", {}).items():
        path = f"{prefix}{name}"
        required = name in schema.get("required", ())
        meaning = " ".join(str(about.get("description", "")).split())
        yield Option(path, type_text(about, definitions), required, about.get("default"), meaning)
        if path.count(".") < _DEEPEST:
            for nested in _models(about, definitions):
                yield from _options(nested, definitions, f"{path}.")


def _models(about: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The nested models that an option's value may be."""
    for choice in about.get("anyOf", [about]):
        target = definitions.get(str(choice.get("$ref", "")).rpartition("/")[2], {})
        if "properties" in target:
            yield target


def type_text(about: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A JSON schema of a value in words: "integer >= 1 | null", "list of text", "max | top"."""
    if "plugin" in about:
        return f"a {about['plugin']} with its options"
    if "$ref" in about:
        return type_text(definitions[about["$ref"].rpartition("/")[2]], definitions)
    for key in ("anyOf", "oneOf"):
        if key in about:
            return " | ".join(dict.fromkeys(type_text(choice, definitions) for choice in about[key]))
    if "enum" in about or "const" in about:
        return " | ".join("null" if value is None else str(value) for value in about.get("enum", [about.get("const")]))
    return _plain(about, definitions)


def _plain(about: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    kind = str(about.get("type", "anything"))
    if "prefixItems" in about:
        return "[" + ", ".join(type_text(item, definitions) for item in about["prefixItems"]) + "]"
    if kind == "array" and about.get("items"):
        inner = type_text(about["items"], definitions)
        return f"list of ({inner})" if " | " in inner else f"list of {inner}"
    if kind == "object" and isinstance(about.get("additionalProperties"), Mapping):
        return f"mapping to {type_text(about['additionalProperties'], definitions)}"
    if about.get("format") in ("path", "file-path", "directory-path"):
        return "path"
    bounds = [f"{sign} {about[key]:g}" for key, sign in _BOUNDS.items() if key in about]
    return " ".join([_NAMES.get(kind, kind), " and ".join(bounds)]).strip()
