"""Finds plugins through entry points, keeps broken ones apart, and loads implementations on demand."""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

import pluggy
from pydantic import BaseModel, ConfigDict

from meds.core import hookspecs
from meds.core.errors import MedsError, PluginError
from meds.core.plugin_source import source_digest

ENTRY_POINT_GROUP = "meds"
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
        """
        known = [self.plugin.name, self.package, self.package_version, self.plugin.version]
        return known if self.package == OWN_DISTRIBUTION else [*known, source_digest(self.plugin.load)]


@dataclass(frozen=True)
class BrokenPlugin:
    """An entry point that could not be loaded, with its error."""

    entry_point: str
    package: str
    package_version: str
    error: str
    module: str = ""


class Registry:
    """All plugins by kind and name. A broken plugin is listed in `broken` and harms nothing else."""

    def __init__(self) -> None:
        self._by_kind: dict[str, dict[str, Registration]] = {kind: {} for kind in KINDS}
        self.broken: list[BrokenPlugin] = []

    def register_module(self, module: ModuleType | object, package: str, version: str, name: str = "") -> None:
        """Register what the hooks of one module (or object) return, all or nothing."""
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs)
        try:
            _check_version(module, package)
            manager.register(module)
            manager.check_pending()
            found = [
                Registration(kind, plugin, package, version)
                for kind, hook in KINDS.items()
                for plugins in getattr(manager.hook, hook)()
                for plugin in plugins
            ]
            self._refuse_duplicates(found)
            _refuse_reserved(found)
        except Exception as error:
            self.note_broken(name or str(module), package, version, error, getattr(module, "__name__", ""))
            return
        for registration in found:
            self._by_kind[registration.kind][registration.plugin.name] = registration

    def note_broken(self, name: str, package: str, version: str, error: BaseException, module: str = "") -> None:
        """List an entry point as broken; an error that meds did not raise on purpose is shown with its type."""
        text = str(error) if isinstance(error, MedsError) else f"{type(error).__name__}: {error}"
        self.broken.append(BrokenPlugin(name, package, version, text, module))

    def _refuse_duplicates(self, found: Iterable[Registration]) -> None:
        new: dict[tuple[str, str], Registration] = {}
        for registration in found:
            kind, name = registration.kind, registration.plugin.name
            other = self._by_kind[kind].get(name) or new.get((kind, name))
            new[kind, name] = registration
            if other is not None:
                raise PluginError(f"The {kind} name '{name}' is already taken by {other.package}.")

    def names(self, kind: str) -> list[str]:
        """Names of all working plugins of a kind, sorted."""
        return sorted(self._by_kind[kind])

    def all(self) -> list[Registration]:
        """All working plugins, by kind and name."""
        return [self._by_kind[kind][name] for kind in KINDS for name in self.names(kind)]

    def find(self, name: str, kind: str | None = None) -> Registration:
        """The plugin of that name, of any kind if none is given.

        Raises:
            PluginError: there is none (with the nearest known name), or several kinds have one.
        """
        if kind is not None:
            return self.get(known_kind(kind), name)
        found = [registration for registration in self.all() if registration.plugin.name == name]
        if not found:
            known = {registration.plugin.name for registration in self.all()}
            raise PluginError(unknown_name("plugin", name, known) + self.broken_hint())
        if len(found) > 1:
            kinds = " and ".join(f"a {registration.kind}" for registration in found)
            raise PluginError(f"'{name}' is {kinds}; say which with --kind.")
        return found[0]

    def get(self, kind: str, name: str) -> Registration:
        """The plugin of that kind and name; PluginError with the nearest known name if there is none."""
        try:
            return self._by_kind[kind][name]
        except KeyError:
            raise PluginError(unknown_name(kind, name, self.names(kind)) + self.broken_hint()) from None

    def meant(self, kind: str, block: Mapping[str, Any]) -> str | None:
        """The plugin that a spec's block names, or means by its keys without a `type`; None if that is unclear."""
        if "type" in block:
            return str(block["type"])
        keys = {name: self._by_kind[kind][name].plugin.without_type for name in self.names(kind)}
        by_key = [name for name, key in keys.items() if key and key in block]
        found = by_key or [name for name, key in keys.items() if key == ""]
        return found[0] if len(found) == 1 else None

    def broken_hint(self) -> str:
        """What to add to "unknown name": the wanted plugin may be a broken one; empty if none is broken."""
        packages = sorted({item.package for item in self.broken})
        return f" Broken and left out: {', '.join(packages)} (see `meds plugins`)." if packages else ""


def known_kind(text: str) -> str:
    """The kind that a command's argument names ("selection-rule", "student"); PluginError with the nearest known."""
    kinds = {kind.replace(" ", "-"): kind for kind in KINDS}
    try:
        return kinds[text.strip().lower().replace(" ", "-")]
    except KeyError:
        raise PluginError(unknown_name("kind of plugin", text, kinds)) from None


def unknown_name(what: str, name: str, known: Iterable[str], where: str = "") -> str:
    """A sentence for an unknown name, with the nearest known one; `where` follows the name."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known) or 'none'}."
    return f"unknown {what} '{name}'{where}; {hint}"


def _refuse_reserved(found: Iterable[Registration]) -> None:
    """PluginError for an option that no spec could set, because its key says which plugin, or stage, is meant."""
    for registration in found:
        reserved = {"type", "name"} if registration.kind == "stage" else {"type"}
        taken = sorted(reserved & getattr(registration.plugin.options, "model_fields", {}).keys())
        if taken:
            raise PluginError(
                f"The {registration.kind} '{registration.plugin.name}' has an option '{taken[0]}', and in a spec this "
                "key is not an option's; rename it."
            )


def _check_version(module: ModuleType | object, package: str) -> None:
    """PluginError if a module with hooks states that it was written for another version of `meds.api`."""
    stated = getattr(module, "MEDS_API", hookspecs.API_VERSION)
    if isinstance(stated, bool) or not isinstance(stated, int):
        raise PluginError(f"MEDS_API must be a whole number such as {hookspecs.API_VERSION}, not {stated!r}.")
    if stated != hookspecs.API_VERSION:
        newer = OWN_DISTRIBUTION if stated > hookspecs.API_VERSION else package
        raise PluginError(
            f"It was written for version {stated} of meds.api, and the installed meds has version "
            f"{hookspecs.API_VERSION}; install a newer release of {newer}."
        )


def _wanted() -> Callable[[EntryPoint], bool]:
    limit = os.environ.get("MEDS_PLUGINS")
    if limit is None:
        return lambda _: True
    names = {name.strip() for name in limit.split(",") if name.strip()}

    def wanted(point: EntryPoint) -> bool:
        package = _package(point)[0]
        return package == OWN_DISTRIBUTION or point.name in names or package in names

    return wanted


def _package(point: EntryPoint) -> tuple[str, str]:
    dist = point.dist
    return (dist.name, dist.version) if dist is not None else ("unknown", "unknown")


def load_registry() -> Registry:
    """Load every entry point of the group `meds`; MEDS_PLUGINS=a,b limits those of other packages."""
    registry = Registry()
    wanted = _wanted()
    points = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda p: (_package(p)[0] != OWN_DISTRIBUTION, p.name))
    for point in points:
        if not wanted(point):
            continue
        package, version = _package(point)
        try:
            module = point.load()
        except (Exception, SystemExit) as error:
            registry.note_broken(point.name, package, version, error, point.module)
            continue
        registry.register_module(module, package, version, point.name)
    return registry


@lru_cache(maxsize=1)
def registry() -> Registry:
    """The registry of this process, loaded once."""
    return load_registry()
