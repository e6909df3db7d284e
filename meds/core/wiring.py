"""Which earlier stage feeds which: known from the spec alone, before any image is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meds.core.errors import PluginError, SpecError
from meds.core.registry import Registry
from meds.core.spec import Block
from meds.core.stage import Stage


@dataclass(frozen=True)
class WiredStage:
    """A stage of the spec, made of its block; `inputs` maps artifact kinds to positions of earlier stages."""

    block: Block
    stage: Stage
    inputs: Mapping[str, int]


def wire_stages(blocks: Sequence[Block], registry: Registry) -> tuple[WiredStage, ...]:
    """Make the stages and find what feeds each.

    Raises:
        SpecError: a stage lacks an input; names the place in the spec and the stages that make it.
        PluginError: a stage does not declare what it makes or needs.
    """
    wired: list[WiredStage] = []
    for block in blocks:
        stage: Stage = block.registration.load(Stage)(block.options)
        if not isinstance(getattr(stage, "produces", None), str):
            raise PluginError(f"The stage `{block.name}` does not say with `produces` what kind of result it makes.")
        wired.append(WiredStage(block, stage, _inputs(block, stage, wired, registry)))
    return tuple(wired)


def _inputs(block: Block, stage: Stage, earlier: Sequence[WiredStage], registry: Registry) -> dict[str, int]:
    inputs: dict[str, int] = {}
    needs: tuple[Any, ...] = stage.consumes()
    for kinds in needs:
        if isinstance(kinds, str):
            raise PluginError(
                f"The stage `{block.name}` says with `consumes` that it needs {kinds!r}: for each input it must be a "
                f"tuple of kinds, as in (({kinds!r},),)."
            )
        found = _nearest(kinds, earlier)
        if not found:
            raise SpecError(_lacking(block, kinds, registry))
        inputs |= found
    for kind in stage.may_consume():
        inputs |= _nearest((kind,), earlier)
    return inputs


def _nearest(kinds: Sequence[str], earlier: Sequence[WiredStage]) -> dict[str, int]:
    """The kind and the position of the last stage that makes one of the kinds; empty if none does."""
    for position in range(len(earlier) - 1, -1, -1):
        kind = earlier[position].stage.produces
        if kind in kinds:
            return {kind: position}
    return {}


def _lacking(block: Block, kinds: Sequence[str], registry: Registry) -> str:
    place = f"{block.place}: the" if block.place else "The"
    wanted = " or ".join(f"'{kind}'" for kind in kinds)
    makers = " or ".join(f"`{{type: {name}}}`" for name in _makers(kinds, registry))
    advice = f"put {makers} before it" if makers else "no installed stage makes one either"
    return f"{place} stage `{block.name}` needs a result of kind {wanted} and no earlier stage makes one; {advice}."


def _makers(kinds: Sequence[str], registry: Registry) -> list[str]:
    """Names of the installed stages that make one of the kinds; those that cannot be loaded are left out."""
    found = []
    for name in registry.names("stage"):
        try:
            kind = getattr(registry.get("stage", name).load(Stage), "produces", None)
        except PluginError:
            continue
        if kind in kinds:
            found.append(name)
    return found
