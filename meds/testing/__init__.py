"""Conformance kits: a class for each kind of plugin whose methods `test_*` check the whole contract.

A plugin's test module subclasses the kit of its kind and names the plugin; `meds plugins check NAME` runs the same
checks without a test module.
"""

from __future__ import annotations

from meds.testing.detectors import DetectorKit
from meds.testing.students import StudentKit

__all__ = ["DetectorKit", "StudentKit"]
