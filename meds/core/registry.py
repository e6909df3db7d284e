"""Finds plugins through entry points, keeps broken ones apart, and loads implementations on demand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from meds.core.errors import MedsError, PluginError, unknown_name
from meds.core.plugin import (
    KINDS,
    OWN_DISTRIBUTION,
    BrokenPlugin,
    Options,
    Plugin,
    Registration,
    nested_plugins,
)
from meds.core.plugin_claims import Claim, holder, why_contested, why_lost
from meds.core.plugin_faults import check_plugin, ended, values_fault
from meds.core.plugin_hooks import call_hooks
from meds.core.plugin_module import module_fault

__all__ = [
    "ENTRY_POINT_GROUP",
    "KINDS",
    "OWN_DISTRIBUTION",
    "BrokenPlugin",
    "Options",
    "Plugin",
    "Registration",
    "Registry",
    "known_kind",
    "load_registry",
    "nested_plugins",
    "registry",
    "unknown_name",
]

ENTRY_POINT_GROUP = "meds"


class Registry:
    """All plugins by kind and name. A broken plugin is listed in `broken` and harms nothing else.

    A name that two other packages claim is nobody's, so that the order in which they are found decides nothing; one
    that comes with meds stays there.
    """

    def __init__(self) -> None:
        self._by_kind: dict[str, dict[str, Registration]] = {kind: {} for kind in KINDS}
        self._claims: dict[tuple[str, str], list[Claim]] = {}
        self._faulty: list[BrokenPlugin] = []

    @property
    def broken(self) -> list[BrokenPlugin]:
        """Entry points that could not be loaded, and single plugins that are left out because of their names."""
        lost = [
            claim.left_out(why_lost(claims, claim))
            for claims in self._claims.values()
            for claim in claims
            if claim is not holder(claims)
        ]
        return [*self._faulty, *lost]

    def register_module(self, module: ModuleType | object, package: str, version: str, name: str = "") -> None:
        """Register what the hooks of one module (or object) return, all or nothing but for names that are taken."""
        entry_point, origin = name or str(module), getattr(module, "__name__", "")
        try:
            found = [Registration(kind, plugin, package, version) for kind, plugin in call_hooks(module, package)]
            for registration in found:
                check_plugin(registration.kind, registration.plugin)
            _refuse_twice(found)
            self._refuse_keys(found)
        except (Exception, SystemExit) as error:
            self.note_broken(entry_point, package, version, error, origin)
            return
        for registration in found:
            self._claim(Claim(registration, entry_point, origin))

    def note_broken(self, name: str, package: str, version: str, error: BaseException, module: str = "") -> None:
        """List an entry point as broken; an error that meds did not raise on purpose is shown with its type."""
        text = str(error) if isinstance(error, MedsError) else f"{type(error).__name__}: {error}"
        self._faulty.append(BrokenPlugin(name, package, version, text, module))

    def _claim(self, claim: Claim) -> None:
        kind, name = claim.registration.kind, claim.registration.plugin.name
        claims = self._claims.setdefault((kind, name), [])
        claims.append(claim)
        self._by_kind[kind].pop(name, None)
        if (owner := holder(claims)) is not None:
            self._by_kind[kind][name] = owner.registration

    def _refuse_keys(self, found: Iterable[Registration]) -> None:
        """PluginError for a `without_type` that would take blocks from a plugin that comes with meds."""
        for registration in found:
            kind, key = registration.kind, registration.plugin.without_type
            own = [item.plugin for item in self._by_kind[kind].values() if item.package == OWN_DISTRIBUTION]
            if key is None or registration.package == OWN_DISTRIBUTION or not own:
                continue
            if key == "" or any(key in plugin.options.model_fields for plugin in own):
                raise PluginError(
                    f"The {kind} '{registration.plugin.name}' has {key!r} as its `without_type`, which means one that "
                    "comes with meds; choose an option that none of these has."
                )

    def names(self, kind: str) -> list[str]:
        """Names of all working plugins of a kind, sorted."""
        return sorted(self._by_kind[kind])

    def all(self) -> list[Registration]:
        """All working plugins, by kind and name."""
        return [self._by_kind[kind][name] for kind in KINDS for name in self.names(kind)]

    def find(self, name: str, kind: str | None = None) -> Registration:
        """The plugin of that name, of any kind if none is given.

        Raises:
            PluginError: there is none (with the nearest known name), several claim it, or several kinds have one.
        """
        if kind is not None:
            return self.get(known_kind(kind), name)
        found = [registration for registration in self.all() if registration.plugin.name == name]
        if not found:
            for each in KINDS:
                self._refuse_contested(each, name)
            known = {registration.plugin.name for registration in self.all()}
            raise PluginError(unknown_name("plugin", name, known) + self.broken_hint())
        if len(found) > 1:
            kinds = " and ".join(f"a {registration.kind}" for registration in found)
            raise PluginError(f"'{name}' is {kinds}; say which with --kind.")
        return found[0]

    def get(self, kind: str, name: str) -> Registration:
        """The plugin of that kind and name.

        Raises:
            PluginError: there is none (with the nearest known name), or several packages claim the name.
        """
        try:
            return self._by_kind[kind][name]
        except KeyError:
            self._refuse_contested(kind, name)
            raise PluginError(unknown_name(kind, name, self.names(kind)) + self.broken_hint()) from None

    def _refuse_contested(self, kind: str, name: str) -> None:
        """PluginError for a name that is left out because several want it."""
        claims = self._claims.get((kind, name), [])
        if claims and holder(claims) is None:
            raise PluginError(why_contested(claims)) from None

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
        packages = sorted({item.package for item in self._faulty})
        return f" Broken and left out: {', '.join(packages)} (see `meds plugins`)." if packages else ""

    def fault(self, found: Registration) -> str | None:
        """What is wrong with a plugin as far as can be told without importing it; None if nothing."""
        return module_fault(found.plugin.load) or self.recipe_fault(found)

    def recipe_fault(self, found: Registration, recipe: str | None = None) -> str | None:
        """What is wrong with a student's `stage_recipes`, of one recipe or of all, now that all stages are known.

        None if nothing is. The student works without the recipe, and a stage may be another package's, which is broken:
        so it is not left out.
        """
        for name, stages in found.plugin.stage_recipes.items():
            for stage, values in stages.items() if recipe in (None, name) else ():
                known = self._by_kind["stage"].get(stage)
                if known is None:
                    fault: str | None = unknown_name("stage", str(stage), self.names("stage"))
                else:
                    fault = values_fault(known.plugin.options, values)
                if fault is not None:
                    where = f"in `stage_recipes` for '{name}' and the stage '{stage}'"
                    title = f"the student '{found.plugin.name}' of {found.package}"
                    return ended(f"{title} has a mistake {where}: {fault}")
        return None


def _refuse_twice(found: Iterable[Registration]) -> None:
    """PluginError for two plugins of one module that bear the same name."""
    seen = set()
    for registration in found:
        kind, name = registration.kind, registration.plugin.name
        if (kind, name) in seen:
            raise PluginError(f"It has two plugins of the kind '{kind}' named '{name}'; rename one.")
        seen.add((kind, name))


def known_kind(text: str) -> str:
    """The kind that a command's argument names ("selection-rule", "student"); PluginError with the nearest known."""
    kinds = {kind.replace(" ", "-"): kind for kind in KINDS}
    try:
        return kinds[text.strip().lower().replace(" ", "-")]
    except KeyError:
        raise PluginError(unknown_name("kind of plugin", text, kinds)) from None


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
    return (dist.name or "unknown", dist.version or "unknown") if dist is not None else ("unknown", "unknown")


def load_registry() -> Registry:
    """Load every entry point of the group `meds`; MEDS_PLUGINS=a,b limits those of other packages."""
    registry = Registry()
    wanted = _wanted()
    known: set[tuple[str, int]] = set()
    points = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda p: (_package(p)[0] != OWN_DISTRIBUTION, p.name))
    for point in filter(wanted, points):
        package, version = _package(point)
        try:
            module = point.load()
        except (Exception, SystemExit) as error:
            registry.note_broken(point.name, package, version, error, point.value.partition(":")[0].strip())
            continue
        if (package, id(module)) not in known:  # two entry points of a package may name one module
            registry.register_module(module, package, version, point.name)
        known.add((package, id(module)))
    return registry


@lru_cache(maxsize=1)
def registry() -> Registry:
    """The registry of this process, loaded once."""
    return load_registry()
