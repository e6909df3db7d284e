"""Whether the module that a plugin is loaded from is there, found out without importing it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec


def module_fault(load: str) -> str | None:
    """What is wrong with "package.module:Class" as far as can be told without importing the module; None if nothing.

    That the module is there does not say that it can be imported, nor that the class is in it.
    """
    module, _, attribute = load.partition(":")
    if not module or not attribute:
        return f"what it is loaded from must read 'package.module:Class', not {load!r}"
    try:
        # The second is slow, for it imports the packages above, and rarely needed: one may lengthen its own path.
        found = _is_there(module) or importlib.util.find_spec(module) is not None
    except ModuleNotFoundError as error:
        return f"ModuleNotFoundError: No module named {error.name or module!r}"
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    return None if found else f"ModuleNotFoundError: No module named {module!r}"


def _is_there(module: str) -> bool:
    """Whether the finders of Python know the module; the packages above it are searched, not imported."""
    path: Iterable[str] | None = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        if depth > 1 and path is None:
            return False  # what is above is a module, not a package
        if name in sys.modules:
            path = getattr(sys.modules[name], "__path__", None)
        elif (spec := _spec(name, path)) is not None:
            path = spec.submodule_search_locations
        else:
            return False
    return True


def _spec(name: str, path: Iterable[str] | None) -> ModuleSpec | None:
    """The first answer of Python's finders, without importing the package above as `find_spec` does."""
    for finder in sys.meta_path:
        try:
            spec: ModuleSpec | None = finder.find_spec(name, None if path is None else list(path))
        except KeyError:  # a namespace within a namespace asks for the imported one above
            return None
        if spec is not None:
            return spec
    return None
