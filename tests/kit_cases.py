"""Runs one check of a kit on a class that no package has registered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from meds.core.registry import Options, Plugin, Registration, Registry
from meds.testing.base import CheckError, Kit
from meds.testing.plain_models import PlainStudent
from meds.testing.registries import with_encoders

OF_EVERY_KIT = {
    "test_unknown_options_are_refused",
    "test_options_survive_a_spec",
    "test_options_are_described",
    "test_listing_imports_no_torch",
}
"""Checks of all kits, which test_kit.py breaks."""


@dataclass(frozen=True)
class Direct(Registration):
    """A registration that has its class already."""

    found: Any = None

    def load(self, contract: type | None = None) -> Any:
        return self.found


class LossOfEveryImage(PlainStudent):
    def loss(self, targets, outputs, progress):
        return (targets[0] - outputs[0]).square().mean(dim=(1, 2, 3))


def registry_with(kind: str, found: Any, options: Any = Options, summary: str = "A plugin for a test.") -> Registry:
    """All installed plugins and one more, called "broken"."""
    registry = Registry()
    registry._by_kind = {name: dict(plugins) for name, plugins in with_encoders()._by_kind.items()}
    plugin = Plugin("broken", options, f"{__name__}:Direct", summary)
    registry._by_kind[kind]["broken"] = Direct(kind, plugin, "somebody", "1", found)
    return registry


def kit_of(base: type[Kit], found: Any, model: Any = Options, **attributes: Any) -> Any:
    """A kit for that class; `attributes` are the kit's own."""
    known = registry_with(base.kind, found, model)
    values = {"__module__": __name__, "__test__": False, "name": "broken", "registry": lambda self: known}
    return type(base.__name__, (base,), {**values, **attributes})()


def caught_when_slow(base: type[Kit], found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny fit of the class passes, and fails once none of its processor time is allowed."""
    kit = kit_of(base, found, backbones=("cnn",))
    kit.test_a_tiny_fit_takes_seconds()
    monkeypatch.setattr("meds.testing.models.MOST_SECONDS", 0)
    with pytest.raises(CheckError, match="of processor time for a dozen tiny images on a cnn, where 0 are allowed"):
        kit.test_a_tiny_fit_takes_seconds()


def caught(base: type[Kit], found: Any, check: str, sentence: str, model: Any = Options, **attributes: Any) -> None:
    """The check fails, and says why in these words (a regular expression)."""
    with pytest.raises(AssertionError, match=sentence):
        getattr(kit_of(base, found, model, **attributes), check)()
