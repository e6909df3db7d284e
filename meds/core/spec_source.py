"""Reads a YAML spec and remembers the line of every key, so that errors can point at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from meds.core.errors import SpecError

KeyPath = tuple[str | int, ...]


@dataclass
class SpecSource:
    """The plain data of a spec, and where each key stands."""

    name: str
    data: dict[str, Any]
    places: dict[KeyPath, str] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """'file:line' of a key, or of its nearest parent; the override's text where one set it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return self.name


def read_spec(path: Path, overrides: Sequence[str] = ()) -> SpecSource:
    """Read a spec file and apply `key.path=value` overrides; SpecError names file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{path}: there is no such spec file.") from None
    except IsADirectoryError:
        inside = path / "spec.yaml"
        advice = f"its spec is {inside}" if inside.is_file() else f"`meds init {path}` writes a spec for its images"
        raise SpecError(f"{path} is a folder, and a spec is a file; {advice}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: the spec cannot be read ({error}).") from None
    source = parse_spec(text, str(path))
    for override in overrides:
        _apply(source, override)
    return source


def parse_spec(text: str, name: str) -> SpecSource:
    """Parse YAML text; SpecError on bad syntax, a repeated key or a spec that is no mapping."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        source = SpecSource(name, {})
        if node is not None:
            _visit(node, (), source)
        data = yaml.safe_load(text)
    except yaml.reader.ReaderError as error:
        place = f"{name}:{text.count(chr(10), 0, error.position) + 1}"
        raise SpecError(
            f"{place}: not valid YAML: it holds the character U+{error.character:04X}, which no YAML file may hold."
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise SpecError(f"{name}{line}: not valid YAML: {problem}.") from None
    except RecursionError:
        raise SpecError(f"{name}: lists and mappings lie too deep in each other, or in themselves.") from None
    if not isinstance(data, dict):
        raise SpecError(f"{name}: a spec is a mapping of keys such as `dataset:` and `stages:`.")
    source.data = data
    return source


def _visit(node: yaml.Node, path: KeyPath, source: SpecSource) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value in node.value:
            key = str(key_node.value)
            place = f"{source.name}:{key_node.start_mark.line + 1}"
            if key in seen:
                raise SpecError(f"{place}: the key `{key}` stands twice; keep one.")
            seen.add(key)
            source.places[(*path, key)] = place
            _visit(value, (*path, key), source)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            source.places[(*path, index)] = f"{source.name}:{value.start_mark.line + 1}"
            _visit(value, (*path, index), source)


def _apply(source: SpecSource, override: str) -> None:
    key, sign, text = override.partition("=")
    place = f"--set {override}"
    if not sign or not key.strip():
        raise SpecError(f"{place}: write an override as key.path=value, for example student.type=rd.")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        raise SpecError(f"{place}: the value is not valid YAML; put quotes around it.") from None
    path = _resolve(source.data, key.strip().split("."), place)
    container: Any = source.data
    for part in path[:-1]:
        if isinstance(container, Mapping) and container.get(part) is None:
            container[part] = {}  # type: ignore[index]
        container = container[part]
    container[path[-1]] = value
    for known in [p for p in source.places if p[: len(path)] == path]:
        del source.places[known]
    source.places[path] = place


def _resolve(data: dict[str, Any], parts: list[str], place: str) -> KeyPath:
    """Turn text parts into keys; a stage is named by its index, its `name` or its `type`."""
    path: list[str | int] = []
    container: Any = data
    for position, part in enumerate(parts):
        key: str | int = part
        if isinstance(container, list):
            key = _item(container, part, place)
            container = container[key]
        elif isinstance(container, dict):
            container = container.get(part)
        elif container is not None:
            raise SpecError(f"{place}: `{'.'.join(parts[:position])}` is a value and has no key `{part}`.")
        path.append(key)
    return tuple(path)


def _item(items: list[Any], part: str, place: str) -> int:
    if part.lstrip("-").isdigit() and -len(items) <= int(part) < len(items):
        return int(part) % len(items)
    named = [
        i for i, item in enumerate(items) if isinstance(item, dict) and part in (item.get("name"), item.get("type"))
    ]
    if len(named) == 1:
        return named[0]
    reason = "is not there" if not named else "is there more than once; use its position"
    raise SpecError(f"{place}: the stage `{part}` {reason}.")
