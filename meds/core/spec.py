"""The pipeline spec: validated by Pydantic, plugin blocks by their plugins' options models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from meds.core.errors import PluginError, SpecError
from meds.core.plugin import Recipe
from meds.core.registry import Options, Registration, Registry, nested_plugins, unknown_name
from meds.core.spec_source import KeyPath, SpecSource, read_spec

# The folder of a run directory into which reports go that are no longer true.
EARLIER = "earlier"
_STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class DecisionsModel(BaseModel):
    """Decisions about training images: defects leave, normal images are always selected."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Path = Field(description="A table of decisions, as `meds review` writes it.")
    defects_to_test: bool = Field(default=False, description="Put confirmed defects among the test images.")


class SpecModel(BaseModel):
    """The keys of a spec. Blocks with a `type` are checked further by their plugin's options model."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the run and its directory.")
    seed: int = Field(
        default=0,
        ge=0,
        description="Seed of every random choice of the stages; noise, drawn data sets and random "
        "encoders have seeds of their own.",
    )
    recipe: Recipe | None = Field(
        default=None,
        description="Set all points where the paper's text and the released code differ to one of the two.",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="Arithmetic of the networks; auto takes bf16 where the hardware has it."
    )
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="CPU threads; default: one for each core that the process may use."
    )
    dataset: dict[str, Any] = Field(description="Where the images are.")
    noise: dict[str, Any] | None = Field(default=None, description="Known defects to add to the training set.")
    decisions: DecisionsModel | None = Field(
        default=None, description="What people have decided about the training images (`meds review`)."
    )
    classes: Literal["unified", "separate"] = Field(
        default="unified", description="One student for all classes, or one for each."
    )
    backbone: dict[str, Any] = Field(description="The frozen encoder.")
    student: dict[str, Any] = Field(description="The reconstruction network.")
    stages: list[dict[str, Any]] = Field(min_length=1, description="What is run, in order.")
    loggers: list[dict[str, Any]] = Field(
        default=[], description="Run loggers: told of stages, iterations, selections and results."
    )


@dataclass(frozen=True)
class Block:
    """A plugin chosen by a spec, with its validated options and the stage name (its type by default).

    `place` says where the spec has it ('file:line'); two blocks that differ in nothing else are equal.
    """

    registration: Registration
    options: Options
    name: str
    place: str = field(default="", compare=False)

    @property
    def type(self) -> str:
        """The plugin's name."""
        return self.registration.plugin.name

    def dump(self) -> dict[str, Any]:
        """The block as plain data, every default written out."""
        data = {"type": self.type, **self.options.model_dump(mode="json")}
        if self.name != self.type:
            data["name"] = self.name
        return data


@dataclass(frozen=True)
class Spec:
    """A resolved spec: every plugin found, every option validated, every default known."""

    name: str
    seed: int
    recipe: Recipe | None
    device: str
    precision: Literal["auto", "fp32", "bf16"]
    threads: int | None
    classes: Literal["unified", "separate"]
    dataset: Block
    noise: Block | None
    decisions: DecisionsModel | None
    backbone: Block
    student: Block
    stages: tuple[Block, ...]
    loggers: tuple[Block, ...] = ()

    def dump(self) -> dict[str, Any]:
        """The resolved spec as plain data; reading it again gives an equal spec."""
        return {
            "name": self.name,
            "seed": self.seed,
            "recipe": self.recipe,
            "device": self.device,
            "precision": self.precision,
            "threads": self.threads,
            "dataset": self.dataset.dump(),
            "noise": None if self.noise is None else self.noise.dump(),
            "decisions": None if self.decisions is None else self.decisions.model_dump(mode="json"),
            "classes": self.classes,
            "backbone": self.backbone.dump(),
            "student": self.student.dump(),
            "stages": [stage.dump() for stage in self.stages],
            "loggers": [logger.dump() for logger in self.loggers],
        }

    def to_yaml(self) -> str:
        """The resolved spec as YAML."""
        return yaml.safe_dump(self.dump(), sort_keys=False, allow_unicode=True)


def load_spec(path: Path, registry: Registry, overrides: Sequence[str] = ()) -> Spec:
    """Read, override and resolve a spec file; SpecError lists every problem with file, line and key."""
    return resolve_spec(read_spec(path, overrides), registry)


def resolve_spec(source: SpecSource, registry: Registry) -> Spec:
    """Check a spec's data against the model and the plugins' options models."""
    problems: list[str] = []
    try:
        model = SpecModel.model_validate(source.data)
    except ValidationError as error:
        raise SpecError("\n".join(_sentences(error, source, (), SpecModel))) from None
    resolver = _Resolver(source, registry, model.recipe, problems)
    dataset = resolver.block("dataset", model.dataset, ("dataset",))
    noise = None
    if model.noise is not None:
        kind = "noise protocol"
        noise = resolver.block(kind, {"type": registry.meant(kind, model.noise), **model.noise}, ("noise",))
    backbone = resolver.block("backbone", model.backbone, ("backbone",))
    resolver.selecting = any(_selects(stage, registry) for stage in model.stages)
    student = resolver.block("student", model.student, ("student",))
    if student is not None:
        resolver.take_stage_recipe(student.registration)
    stages = [resolver.block("stage", stage, ("stages", i)) for i, stage in enumerate(model.stages)]
    loggers = [resolver.block("logger", logger, ("loggers", i)) for i, logger in enumerate(model.loggers)]
    names = [stage.name for stage in stages if stage is not None]
    for repeated in sorted({name for name in names if names.count(name) > 1}):
        problems.append(
            f"{source.where(('stages',))}: two stages are called `{repeated}`; give one a `name:` of its own."
        )
    if problems or dataset is None or backbone is None or student is None:
        raise SpecError("\n".join(problems))
    fixed = model.model_dump(include={"name", "seed", "recipe", "device", "precision", "threads", "classes"})
    return Spec(
        **fixed,
        dataset=dataset,
        noise=noise,
        decisions=model.decisions,
        backbone=backbone,
        student=student,
        stages=tuple(stage for stage in stages if stage is not None),
        loggers=tuple(logger for logger in loggers if logger is not None),
    )


class _Resolver:
    """Turns blocks of plain data into `Block`s and collects the problems."""

    def __init__(self, source: SpecSource, registry: Registry, recipe: Recipe | None, problems: list[str]) -> None:
        self.source, self.registry, self.recipe, self.problems = source, registry, recipe, problems
        self.selecting = False
        self.stage_recipe: Mapping[str, Mapping[str, Any]] = {}

    def block(self, kind: str, data: dict[str, Any], path: KeyPath) -> Block | None:
        """One block; None after a problem has been noted."""
        name = data.get("type")
        if not isinstance(name, str):
            known = ", ".join(self.registry.names(kind))
            self.problems.append(f"{self.source.where(path)}: `{_dotted(path)}` needs a `type:` (known: {known}).")
            return None
        try:
            registration = self.registry.get(kind, name)
        except PluginError as error:
            self.problems.append(f"{self.source.where((*path, 'type'))}: {error}")
            return None
        values = {key: value for key, value in data.items() if key != "type"}
        stage_name = str(values.pop("name", name)) if kind == "stage" else name
        if kind == "stage" and (not _STAGE_NAME.fullmatch(stage_name) or stage_name == EARLIER):
            self.problems.append(
                f"{self.source.where((*path, 'name'))}: `{_dotted((*path, 'name'))}`: a stage's name is made of "
                f"letters, digits, - and _, because a folder bears it, and is not '{EARLIER}', where old reports "
                f"are kept (given: {stage_name!r})."
            )
            return None
        recipe = dict(registration.plugin.recipes.get(self.recipe or "", {}))
        if kind == "stage":
            recipe |= self.stage_recipe.get(name, {})
        selecting = registration.plugin.selecting if self.selecting else {}
        try:
            options = registration.plugin.options.model_validate({**recipe, **selecting, **values})
        except ValidationError as error:
            self.problems += _sentences(error, self.source, path, registration.plugin.options)
            return None
        return Block(registration, self._nested(options, path), stage_name, self.source.where(path))

    def take_stage_recipe(self, student: Registration) -> None:
        """Use what the student has for stages in the recipe of the spec; a mistake in it is not the spec's."""
        if self.recipe is None:
            return
        fault = self.registry.recipe_fault(student, self.recipe)
        if fault is None:
            self.stage_recipe = student.plugin.stage_recipes.get(self.recipe, {})
        else:
            self.problems.append(f"{self.source.where(('recipe',))}: `recipe`: {fault}")

    def _nested(self, options: Options, path: KeyPath) -> Options:
        """Resolve options that name a plugin themselves, such as a stage's selection rule."""
        resolved = {}
        for name, kind in nested_plugins(type(options)).items():
            block = self.block(kind, getattr(options, name), (*path, name))
            resolved[name] = {} if block is None else block.dump()
        return options.model_copy(update=resolved) if resolved else options


def _selects(stage: dict[str, Any], registry: Registry) -> bool:
    """Whether a stage block names a stage that selects its training images."""
    try:
        return registry.get("stage", str(stage.get("type"))).plugin.selects
    except PluginError:
        return False


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)


def _sentences(error: ValidationError, source: SpecSource, prefix: KeyPath, model: type[BaseModel]) -> list[str]:
    """One sentence for each problem that Pydantic found."""
    found = []
    for detail in error.errors(include_url=False):
        path = (*prefix, *detail["loc"])
        where, key = source.where(path), _dotted(path)
        if detail["type"] == "extra_forbidden":
            inside = f" in `{_dotted(path[:-1])}`" if path[:-1] else ""
            found.append(f"{where}: {unknown_name('key', str(detail['loc'][-1]), model.model_fields, inside)}")
        elif detail["type"] == "missing":
            found.append(f"{where}: the key `{key}` is missing.")
        else:
            given = repr(detail["input"])
            shown = given if len(given) < 60 else given[:57] + "..."
            message = detail["msg"][0].lower() + detail["msg"][1:]
            if detail["type"] == "value_error":
                message = str(detail["ctx"]["error"]).rstrip(".")
            found.append(f"{where}: `{key}`: {message} (given: {shown}).")
    return found
