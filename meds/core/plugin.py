"""What a plugin is: its entry, the base of its options, and where it came from."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from meds.core.errors import PluginError
from meds.core.plugin_source import source_digest

OWN_DISTRIBUTION = "meds-ad"

KINDS: dict[str, str] = {
    "dataset": "meds_datasets",
    "backbone": "meds_backbones",
    "student": "meds_students",
    "stage": "meds_stages",
    "selection rule": "meds_selection_rules",
    "noise protocol": "meds_noise_protocols",
    "logger": "meds_loggers",
}


Recipe = Literal["paper", "released"]


class Options(BaseModel):
    """Base of every options model: unknown keys are refused, values are fixed once validated."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def nested_plugins(options: type[Options]) -> dict[str, str]:
    """Options that name a plugin themselves, such as a stage's selection rule: the option's name and the kind."""
    extras = {name: field.json_schema_extra for name, field in options.model_fields.items()}
    return {
        name: str(extra["plugin"]) for name, extra in extras.items() if isinstance(extra, dict) and "plugin" in extra
    }


@dataclass(frozen=True)
class Plugin:
    """One pluggable thing.

    `load` is a "module:Class" text, imported only when the plugin is used. `recipes` maps a recipe
    name ("paper", "released") to option values that it sets unless the spec says otherwise. `selecting`
    holds option values of a student that its authors or the MeDS paper use where the training images are
    selected; they are set, unless the spec says otherwise, in a pipeline with a stage that `selects`.
    `stage_recipes` maps a recipe's name to the types of stages and the option values that they get with this student
    in place of the stage's own recipe. `without_type` is the key by which a block that has no `type` means this
    plugin; the empty text stands for "if no other is meant".
    """

    name: str
    options: type[Options]
    load: str
    summary: str
    recipes: dict[str, dict[str, Any]] = field(default_factory=dict)
    version: str = "1"
    selecting: dict[str, Any] = field(default_factory=dict)
    selects: bool = False
    stage_recipes: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    without_type: str | None = None


@dataclass(frozen=True)
class Registration:
    """A plugin together with its kind and the package that it came from."""

    kind: str
    plugin: Plugin
    package: str
    package_version: str

    def load(self, contract: type | None = None) -> Any:
        """Import and return the implementation.

        Raises:
            PluginError: its import failed, with the plugin's own error, or it is no subclass of `contract`.
        """
        module_name, _, attribute = self.plugin.load.partition(":")
        title = f"The {self.kind} '{self.plugin.name}' (package {self.package} {self.package_version})"
        try:
            found = getattr(importlib.import_module(module_name), attribute)
        except Exception as error:
            raise PluginError(f"{title} could not be loaded: {type(error).__name__}: {error}.") from error
        if contract is not None and not (isinstance(found, type) and issubclass(found, contract)):
            raise PluginError(f"{title} is {found!r}, and must be a subclass of {contract.__name__} of meds.api.")
        return found

    def identity(self) -> list[str]:
        """What tells one implementation from another; it is part of the name of every result that it has a part in.

        Packages other than meds count with their source code, so that a plugin under development never takes a stored
        result of its former self for its own.

        Raises:
            PluginError: the implementation of another package could not be loaded.
        """
        known = [self.plugin.name, self.package, self.package_version, self.plugin.version]
        if self.package == OWN_DISTRIBUTION:
            return known
        classes = [found for found in (self.load(), self.plugin.options) if isinstance(found, type)]
        return [*known, source_digest(self.plugin.load, self.package, classes)]


@dataclass(frozen=True)
class BrokenPlugin:
    """An entry point that could not be loaded, with its error."""

    entry_point: str
    package: str
    package_version: str
    error: str
    module: str = ""
