"""The installed plugins together with the encoders and the models that the kit brings."""

from __future__ import annotations

import functools

from meds import __version__
from meds.core.registry import OWN_DISTRIBUTION, Registry, load_registry
from meds.testing import encoders, plain_models


def add_own(registry: Registry) -> Registry:
    """Register the kit's encoders and models in a registry, and return it."""
    for module in (encoders, plain_models):
        registry.register_module(module, OWN_DISTRIBUTION, __version__, module.__name__)
    return registry


@functools.cache
def with_encoders() -> Registry:
    """All installed plugins, and the kit's own."""
    return add_own(load_registry())
