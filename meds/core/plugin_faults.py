"""Checks every field of a plugin's entry, so that a wrong one is told as such and not by whoever reads it next."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from meds.core.errors import PluginError, first_line, unknown_name
from meds.core.plugin import KINDS, Options, Plugin, Recipe, nested_plugins

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_OF_ONE_KIND = {
    "selecting": "student",
    "stage_recipes": "student",
    "selects": "stage",
    "without_type": "noise protocol",
}
RECIPES: tuple[str, ...] = get_args(Recipe)


def check_plugin(kind: str, plugin: Plugin) -> None:
    """Check the entry alone; whether it can be loaded, and has its stages, shows elsewhere.

    Raises:
        PluginError: a field has the wrong form. The sentence names the plugin, the field, and what is wanted.
    """
    fault = next(_faults(kind, plugin), None)
    if fault is not None:
        raise PluginError(ended(f"The {kind} {plugin.name!r} {fault}"))


def ended(sentence: str) -> str:
    """The sentence with a mark at its end."""
    return sentence if sentence.endswith((".", "?")) else f"{sentence}."


def _faults(kind: str, plugin: Any) -> Iterator[str]:
    """Each ends a sentence that begins with the plugin's name. Only the first counts, and later checks build on it."""
    yield from _faults_of_name(plugin.name)
    yield from _faults_of_texts(plugin)
    yield from _faults_of_options(kind, plugin.options)
    yield from _faults_of_kind(kind, plugin)
    yield from _faults_of_recipes("recipes", plugin.recipes, plugin.options)
    if fault := values_fault(plugin.options, plugin.selecting):
        yield f"has a mistake in `selecting`: {fault}"
    yield from _faults_of_recipes("stage_recipes", plugin.stage_recipes, None)


def _faults_of_name(name: object) -> Iterator[str]:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        yield "cannot have this name; use small letters, digits and single hyphens, as in 'my-student'"
    elif not isinstance(meant := yaml.safe_load(name), str):
        yield f"cannot have this name, which a spec reads as {meant!r}; choose a name that tells more"


def _faults_of_texts(plugin: Any) -> Iterator[str]:
    load = plugin.load
    parts = load.replace(":", ".").split(".") if isinstance(load, str) and load.count(":") == 1 else [""]
    if not all(part.isidentifier() for part in parts) or "." in load.partition(":")[2]:
        yield f"has {load!r} as its `load`; it must be a text such as 'package.module:Class'"
    if not isinstance(plugin.summary, str) or not plugin.summary.strip():
        yield f"has {plugin.summary!r} as its `summary`; it must be a sentence that says what it is"
    if not isinstance(plugin.version, str):
        yield f"has {plugin.version!r} as its `version`; it must be a text such as '2'"


def _faults_of_options(kind: str, options: Any) -> Iterator[str]:
    if not isinstance(options, type) or not issubclass(options, Options):
        yield f"has {options!r} as its `options`; it must be a subclass of `Options` of meds.api"
        return
    if options.model_config.get("extra") != "forbid":
        yield f"has options that take unknown keys; leave 'extra' out of the `model_config` of {options.__name__}"
    # In a spec these keys say which plugin, or stage, is meant.
    taken = sorted(({"type", "name"} if kind == "stage" else {"type"}) & options.model_fields.keys())
    if taken:
        yield f"has an option '{taken[0]}', and in a spec this key is not an option's; rename it"
    for name, nested in nested_plugins(options).items():
        if nested not in KINDS or nested == kind:
            yield f"has an option '{name}' for a plugin of the kind '{nested}', which cannot stand there"
    try:
        options.model_json_schema()
    except Exception as error:
        yield f"has options that cannot be described ({type(error).__name__}: {first_line(error)}); see {options!r}"


def _faults_of_kind(kind: str, plugin: Any) -> Iterator[str]:
    defaults = Plugin("", Options, "", "")
    for name, owner in _OF_ONE_KIND.items():
        if kind != owner and getattr(plugin, name) != getattr(defaults, name):
            yield f"sets `{name}`, which only a {owner} may have"
    if not isinstance(plugin.selects, bool):
        yield f"has {plugin.selects!r} as its `selects`; it must be True or False"
    key = plugin.without_type
    if key and (not isinstance(key, str) or key not in plugin.options.model_fields):
        yield f"has {key!r} as its `without_type`; it must be the name of one of its options"


def _faults_of_recipes(field: str, table: Any, options: type[Options] | None) -> Iterator[str]:
    """Faults of a table by recipe; of the values in it only if these are values of `options`."""
    if not isinstance(table, Mapping):
        yield f"has {table!r} as its `{field}`; it must be a dictionary with an entry for each recipe"
        return
    for recipe, values in table.items():
        if recipe not in RECIPES:
            yield f"has a mistake in `{field}`: {unknown_name('recipe', str(recipe), RECIPES)}"
        if options is not None and (fault := values_fault(options, values)):
            yield f"has a mistake in `{field}` for '{recipe}': {fault}"
        if options is None and not isinstance(values, Mapping):
            yield f"has a mistake in `{field}` for '{recipe}': {values!r} must be a dictionary by type of stage"


def values_fault(options: type[Options], values: Any) -> str | None:
    """What is wrong with values of options that a plugin sets, in part of a sentence; None if nothing.

    Options that they leave out may be required: the spec gives these.
    """
    if not isinstance(values, Mapping):
        return f"{values!r} must be a dictionary of options and their values"
    aliases = [alias for field in options.model_fields.values() for alias in (field.alias, field.validation_alias)]
    known = {name for name in (*options.model_fields, *aliases) if isinstance(name, str)}
    for key in values:
        if key not in known:
            return unknown_name("option", str(key), known)
    try:
        options.model_validate(dict(values))
    except ValidationError as error:
        found = error.errors(include_url=False)
        missing = any(detail["type"] == "missing" for detail in found)
        for detail in found:
            if missing and detail["type"] in ("value_error", "assertion_error"):
                continue  # it may be about what the spec gives
            if detail["loc"] and detail["loc"][0] in values:
                return f"'{'.'.join(map(str, detail['loc']))}' cannot be {detail['input']!r} ({detail['msg']})"
    except Exception:
        return None  # a validator that misses what the spec gives
    return None
