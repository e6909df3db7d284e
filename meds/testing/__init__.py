"""Conformance kits: a class for each kind of plugin whose methods `test_*` check the whole contract.

A plugin's test module subclasses the kit of its kind and names the plugin; `meds plugins check NAME` runs the same
checks without a test module.
"""

from __future__ import annotations

from meds.testing.backbones import BackboneKit
from meds.testing.datasets import DatasetKit
from meds.testing.detectors import DetectorKit
from meds.testing.noise_protocols import NoiseProtocolKit
from meds.testing.run_loggers import RunLoggerKit
from meds.testing.selection_rules import SelectionRuleKit
from meds.testing.stages import StageKit
from meds.testing.students import StudentKit

__all__ = [
    "BackboneKit",
    "DatasetKit",
    "DetectorKit",
    "NoiseProtocolKit",
    "RunLoggerKit",
    "SelectionRuleKit",
    "StageKit",
    "StudentKit",
]
