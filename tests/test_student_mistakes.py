"""A run with a student that breaks its contract ends in one sentence that names the student's class."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from kit_cases import LossOfEveryImage, registry_with
from pydantic import Field

from meds.core.errors import PluginError
from meds.core.hookspecs import hookimpl
from meds.core.pipeline import Pipeline
from meds.core.registry import Options, Plugin, Registration, Registry
from meds.core.reporter import SilentReporter
from meds.core.runner import Runner, RunRequest
from meds.core.spec import resolve_spec
from meds.core.spec_source import SpecSource
from meds.core.student import Student
from meds.testing.plain_models import PlainStudent


class OneRow(PlainStudent):
    """Its outputs broadcast to the targets' shape."""

    def forward(self, features, classes):
        return [value[:, :, :1] for value in super().forward(features, classes)]


class NoOutput(PlainStudent):
    def forward(self, features, classes):
        super().forward(features, classes)


class LossAsNumber(PlainStudent):
    def loss(self, targets, outputs, progress):
        return super().loss(targets, outputs, progress).item()


class NoNumbers(PlainStudent):
    def anomaly_maps(self, targets, outputs, distance):
        return [value * float("nan") for value in super().anomaly_maps(targets, outputs, distance)]


class Frozen(PlainStudent):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.requires_grad_(False)


FIT = [{"type": "fit", "iterations": 2, "batch_size": 4}, {"type": "evaluate", "map_size": 64}]
MEMORY = [{"type": "memory"}, {"type": "distill", "iterations": 2, "batch_size": 4}]


@pytest.mark.parametrize(
    ("found", "stages", "sentence"),
    [
        (OneRow, FIT, r"^OneRow\.forward gave \[\(4, \d+, 1, \d+\)\] for targets with the shapes \[\(4, "),
        (OneRow, MEMORY, r"^OneRow\.forward gave"),
        (NoOutput, FIT, r"^NoOutput\.forward gave None for targets"),
        (LossOfEveryImage, FIT, r"the loss of LossOfEveryImage is a tensor of the shape \(4,\); it must be"),
        (LossAsNumber, FIT, r"the loss of LossAsNumber is 0\.\d+; it must be a tensor of one number"),
        (NoNumbers, FIT, r"^synthetic/.*\.png: its score is nan, which cannot be ranked; see NoNumbers\.$"),
        (Frozen, FIT, r"^fit \(all\): Frozen has no parameter that can be trained\.$"),
    ],
)
def test_a_broken_contract_is_told(
    tiny_spec: dict[str, Any], project: Any, found: type[Student], stages: list[dict[str, Any]], sentence: str
) -> None:
    known = registry_with("student", found)
    data = {**tiny_spec, "student": {"type": "broken"}, "stages": stages}
    with pytest.raises(PluginError, match=sentence):
        run(data, known, project.root / "run")


def run(data: dict[str, Any], known: Registry, folder: Path) -> None:
    Runner(Pipeline(resolve_spec(SpecSource("spec", data), known), known), RunRequest(folder), SilentReporter()).run()


@pytest.mark.parametrize("loaded", ["torch:nn", "torch:Tensor"])
def test_what_is_no_student_is_refused_when_it_is_loaded(loaded: str) -> None:
    registration = Registration("student", Plugin("mine", Options, loaded, "A student."), "mine-package", "1")
    assert registration.load() in (torch.nn, torch.Tensor)
    with pytest.raises(PluginError, match=r"'mine' \(package mine-package 1\) is .*must be a subclass of Student of"):
        registration.load(Student)


class TypeOptions(Options):
    type: str = Field(default="x", description="A key that says which plugin is meant.")


class NameOptions(Options):
    name: str = Field(default="x", description="A key that names a stage.")


@pytest.mark.parametrize(
    ("hook", "options", "sentence"),
    [
        ("meds_students", TypeOptions, "The student 'mine' has an option 'type', and in a spec this key is not"),
        ("meds_stages", NameOptions, "The stage 'mine' has an option 'name'"),
        ("meds_students", NameOptions, None),
    ],
)
def test_an_option_that_no_spec_can_set_makes_a_plugin_broken(hook: str, options: type[Options], sentence: Any) -> None:
    found = Registry()
    plugins = [Plugin("mine", options, "nowhere:Mine", "A plugin for a test.")]
    function = {"meds_students": lambda: plugins, "meds_stages": lambda: plugins}[hook]
    function.__name__ = hook
    found.register_module(SimpleNamespace(**{hook: hookimpl(function)}), "mine", "1")
    told = [broken.error for broken in found.broken]
    assert len(told) == (sentence is not None)
    assert all(error.startswith(sentence) for error in told)
