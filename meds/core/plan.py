"""A plan: the stages of a spec with the fingerprints of what they make, and the layers that they read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from meds.core import files
from meds.core.backbone import Backbone
from meds.core.data import RunData
from meds.core.errors import UserError
from meds.core.model import Model
from meds.core.registry import Options, Registry, nested_plugins
from meds.core.spec import Block, Spec
from meds.core.wiring import WiredStage

# Students of `separate` once held what belongs to all classes, and such a result fits none of today's.
CLASSES = {"unified": "unified", "separate": "separate, each for its class alone"}


@dataclass(frozen=True)
class PlannedStage(WiredStage):
    """A wired stage with the fingerprint of its artifact."""

    fingerprint: str

    @property
    def name(self) -> str:
        """The stage's name in the spec and in the run directory."""
        return self.block.name


def plan_stages(
    wired: Sequence[WiredStage],
    spec: Spec,
    registry: Registry,
    data: RunData,
    backbone: Backbone,
    backbone_fingerprint: str,
    model: type[Model],
    precision: str,
) -> tuple[PlannedStage, ...]:
    """Give each artifact its name; PluginError if a stage cannot work with the student."""
    planned: list[PlannedStage] = []
    for item in wired:
        block, stage = item.block, item.stage
        stage.check_model(spec.student.type, model, backbone)
        fingerprint = files.fingerprint(
            {
                "stage": _identity(block, registry),
                "options": _values(block.options, registry),
                "inputs": {kind: planned[position].fingerprint for kind, position in item.inputs.items()},
                "confirmed": data.confirmed_fingerprint if stage.sees_confirmations() else None,
                "data": data.fingerprint if stage.sees_test_images() else data.training_fingerprint,
                "backbone": backbone_fingerprint,
                "student": _student(spec, registry) if stage.student_matters(backbone) else None,
                "classes": CLASSES[spec.classes],
                "seed": spec.seed,
                "precision": precision,
            }
        )
        planned.append(PlannedStage(block, stage, item.inputs, fingerprint))
    return tuple(planned)


def layers_read(planned: Sequence[PlannedStage], backbone: Backbone, student_layers: Sequence[str]) -> tuple[str, ...]:
    """Every layer that any stage reads, in the backbone's order; derived layers come last."""
    wanted = {name for item in planned for name in item.stage.layers_needed(backbone, student_layers)}
    own = [layer.name for layer in backbone.layers]
    return (*(name for name in own if name in wanted), *sorted(wanted.difference(own)))


def span(planned: Sequence[PlannedStage], first: str | None, last: str | None) -> range:
    """Positions of the stages from `first` until `last`; UserError for an unknown name or an empty span."""
    names = [item.name for item in planned]
    for option, name in (("--from", first), ("--until", last)):
        if name is not None and name not in names:
            raise UserError(f"{option} {name}: the spec has no such stage; it has {', '.join(names)}.")
    start = names.index(first) if first else 0
    end = names.index(last) + 1 if last else len(names)
    if start >= end:
        raise UserError(f"--from {first} comes after --until {last}; there is nothing to run.")
    return range(start, end)


def _identity(block: Block, registry: Registry) -> list[Any]:
    """The stage's implementation, and those of plugins of other packages that its options name."""
    found: list[Any] = [*block.registration.identity()]
    for option, kind in nested_plugins(type(block.options)).items():
        nested = registry.get(kind, getattr(block.options, option)["type"])
        if nested.package != block.registration.package:
            found.append(nested.identity())
    return found


def _student(spec: Spec, registry: Registry) -> list[Any]:
    return [spec.student.registration.identity(), _values(spec.student.options, registry)]


def file_digests(options: Options) -> dict[str, str]:
    """sha256 of each file or folder that an option names, by the option's name; `rules.0.file` for one further inside.

    Paths where nothing is have none.
    """
    found = {name: files.digest_of(path.expanduser()) for name, path in _paths(options, ())}
    return {name: digest for name, digest in found.items() if digest is not None}


def _paths(value: Any, name: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """All paths in a value, with their names."""
    if isinstance(value, Path):
        yield ".".join(name), value
    elif isinstance(value, BaseModel):
        for key, inner in value:
            yield from _paths(inner, (*name, key))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _paths(inner, (*name, str(key)))
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from _paths(inner, (*name, str(number)))


def _values(options: Options, registry: Registry) -> dict[str, Any]:
    """An options model as plain data, with a file's content in place of its path."""
    values = {**options.model_dump(mode="json"), **file_digests(options)}
    for name, kind in nested_plugins(type(options)).items():
        block = dict(getattr(options, name))
        inner = registry.get(kind, block.pop("type")).plugin.options.model_validate(block)
        values |= {f"{name}.{key}": digest for key, digest in file_digests(inner).items()}
    return values
