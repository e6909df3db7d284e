"""Calls the hooks of one module, and says what is wrong where they give no plugins."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from types import ModuleType

import pluggy

from meds.core import hookspecs
from meds.core.errors import PluginError, unknown_name
from meds.core.plugin import KINDS, OWN_DISTRIBUTION, Plugin

_PREFIX = "meds_"


def call_hooks(module: ModuleType | object, package: str) -> list[tuple[str, Plugin]]:
    """The kind and the entry of every plugin that the hooks of a module (or object) return; at least one.

    What a hook raises itself is passed on.

    Raises:
        PluginError: the module was written for another version of meds.api, a function that should be a hook is not
            marked or has an unknown name, a hook returns something else than a list of plugins, or all return none.
    """
    _check_version(module, package)
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    _refuse_unknown(manager, module)
    manager.register(module)
    unmarked = list(_unmarked(manager, module))
    forgotten = [name for name in unmarked if name in KINDS.values()]
    if forgotten:
        raise PluginError(f"{' and '.join(forgotten)} registers nothing; mark it with @hookimpl.")
    found = [(kind, plugin) for kind, hook in KINDS.items() for plugin in _plugins(manager, hook)]
    if not found:
        raise PluginError(_why_none(manager, unmarked))
    return found


def _refuse_unknown(manager: pluggy.PluginManager, module: ModuleType | object) -> None:
    """PluginError for a marked function that bears no hook's name: pluggy would wait for the hook for ever."""
    for name in dir(module):
        marked = manager.parse_hookimpl_opts(module, name)
        hook = name if marked is None else marked.get("specname") or name
        if marked is not None and not marked.get("optionalhook") and hook not in KINDS.values():
            raise PluginError(unknown_name("hook", hook, KINDS.values()))


def _unmarked(manager: pluggy.PluginManager, module: ModuleType | object) -> Iterator[str]:
    """Names of the functions that look like hooks and are not marked."""
    for name in dir(module):
        is_function = name.startswith(_PREFIX) and inspect.isroutine(getattr(module, name, None))
        if is_function and manager.parse_hookimpl_opts(module, name) is None:
            yield name


def _plugins(manager: pluggy.PluginManager, hook: str) -> Iterator[Plugin]:
    caller = getattr(manager.hook, hook)
    wanted = [found for found in caller.get_hookimpls() if not (found.hookwrapper or found.wrapper)]
    results = caller()
    if len(results) < len(wanted):  # pluggy leaves out what is None
        raise PluginError(f"{hook} returns None; it must return a list of `Plugin` entries.")
    for plugins in results:
        if isinstance(plugins, (str, Plugin)) or not isinstance(plugins, Iterable):
            raise PluginError(f"{hook} returns {plugins!r}; it must return a list of `Plugin` entries.")
        for plugin in plugins:
            if not isinstance(plugin, Plugin):
                raise PluginError(f"{hook} returns a list with {plugin!r} in it, which is no `Plugin` of meds.api.")
            yield plugin


def _why_none(manager: pluggy.PluginManager, unmarked: Iterable[str]) -> str:
    """Why a module without a plugin has none, and what to do."""
    empty = [hook for hook in KINDS.values() if getattr(manager.hook, hook).get_hookimpls()]
    if empty:
        return f"It registers no plugin: {' and '.join(empty)} returns an empty list."
    for name in unmarked:
        return f"It registers no plugin: {unknown_name('hook', name, KINDS.values())} And mark it with @hookimpl."
    return f"It registers no plugin: its module has no function that is called {' or '.join(KINDS.values())}."


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
