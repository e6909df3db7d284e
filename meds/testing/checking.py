"""Runs a kit on an installed plugin, check by check, without a test module."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from unittest import SkipTest

from meds.core.detector import Detector
from meds.core.errors import PluginError
from meds.core.registry import Registration, registry
from meds.testing.backbones import BackboneKit
from meds.testing.base import Kit
from meds.testing.datasets import DatasetKit
from meds.testing.detectors import DetectorKit
from meds.testing.models import ModelKit
from meds.testing.noise_protocols import NoiseProtocolKit
from meds.testing.run_loggers import RunLoggerKit
from meds.testing.selection_rules import SelectionRuleKit
from meds.testing.stages import StageKit
from meds.testing.students import StudentKit

IMAGE_SIZE = 64
KITS: dict[str, type[Kit]] = {
    "student": StudentKit,
    "detector": DetectorKit,
    "backbone": BackboneKit,
    "stage": StageKit,
    "dataset": DatasetKit,
    "selection rule": SelectionRuleKit,
    "noise protocol": NoiseProtocolKit,
    "logger": RunLoggerKit,
}

Result = Literal["passed", "failed", "left out"]


@dataclass(frozen=True)
class Outcome:
    """How one check ended; `sentence` says why it failed or was left out."""

    check: str
    result: Result
    seconds: float
    sentence: str = ""


def kit_for(registration: Registration, settings: Sequence[str] = (), backbone: str | None = None) -> Kit:
    """The kit of a plugin's kind, for that plugin with options from "key=value" texts.

    `backbone` names the encoder that a student or detector is checked on, in place of the tiny random ones.

    Raises:
        PluginError: a text is no "key=value", the encoder is unknown, or the plugin reads no encoder.
    """
    base = KITS[_kind(registration)]
    values: dict[str, Any] = {"name": registration.plugin.name, "options": options_from(settings), "__test__": False}
    if backbone is not None:
        if not issubclass(base, ModelKit):
            raise PluginError(f"--backbone is for students and detectors, and '{values['name']}' is a {base.kind}.")
        fields = registry().get("backbone", backbone).plugin.options.model_fields
        values["backbone"] = {"type": backbone, **({"image_size": IMAGE_SIZE} if "image_size" in fields else {})}
    kit: Kit = type(base.__name__, (base,), {"__module__": __name__, **values})()
    return kit


def _kind(registration: Registration) -> str:
    """The plugin's kind; students that are fitted in their own way are detectors."""
    try:
        found = registration.load() if registration.kind == "student" else None
    except PluginError:
        return registration.kind  # the first check says why it does not load
    return "detector" if isinstance(found, type) and issubclass(found, Detector) else registration.kind


def run_checks(kit: Kit) -> Iterator[Outcome]:
    """Every check of a kit in the order of their names, each as it ends."""
    for name in sorted(kit.checks):
        started = time.perf_counter()
        result, sentence = _run(kit, name)
        yield Outcome(name, result, round(time.perf_counter() - started, 3), sentence)


def _run(kit: Kit, name: str) -> tuple[Result, str]:
    try:
        getattr(kit, name)()
    except SkipTest as reason:
        return "left out", str(reason)
    except AssertionError as failure:
        return "failed", str(failure)
    return "passed", ""


def options_from(settings: Sequence[str]) -> dict[str, Any]:
    """Options from "key=value" texts, the values in YAML; PluginError for a text that is none."""
    import yaml

    options: dict[str, Any] = {}
    for text in settings:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise PluginError(f"--set {text}: write an option as key=value, for example depth=2.")
        try:
            options[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise PluginError(f"--set {text}: the value is not valid YAML; put quotes around it.") from None
    return options
