"""The whole plugin contract: a hook for each kind of thing that can be plugged into meds.

Every hook returns a list of `Plugin` entries: a name, an options model and where to load the
implementation from. Listing plugins never imports an implementation (and so never imports torch). A module
with hooks may state the version of `meds.api` that it was written for: `MEDS_API = 1`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from meds.core.registry import Plugin

PROJECT = "meds"
API_VERSION = 1
"""Version of `meds.api`: rises when a public name goes away or changes its meaning. See docs/plugin-api.md."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def meds_datasets() -> Sequence[Plugin]:  # type: ignore[empty-body]
    """Datasets (`meds.core.dataset.Dataset`): where images, labels and masks come from."""


@hookspec
def meds_backbones() -> Sequence[Plugin]:  # type: ignore[empty-body]
    """Backbones (`meds.core.backbone.Backbone`): frozen encoders that turn images into feature maps."""


@hookspec
def meds_students() -> Sequence[Plugin]:  # type: ignore[empty-body]
    """What may stand under `student`.

    Networks that reconstruct the teacher's feature maps (`meds.core.student.Student`), and detectors that are fitted in
    their own way (`meds.core.detector.Detector`).
    """


@hookspec
def meds_stages() -> Sequence[Plugin]:  # type: ignore[empty-body]
    """Stages (`meds.core.stage.Stage`): steps of a pipeline that turn artifacts into one artifact."""


@hookspec
def meds_selection_rules() -> Sequence[Plugin]:  # type: ignore[empty-body]
    """Selection rules (`meds.core.selection.SelectionRule`): which training images a student may keep."""


@hookspec
def meds_noise_protocols() -> Sequence[Plugin]:  # type: ignore[empty-body]
    """Noise protocols (`meds.core.contamination.NoiseProtocol`): how known defects enter the training set."""


@hookspec
def meds_loggers() -> Sequence[Plugin]:  # type: ignore[empty-body]
    """Run loggers (`meds.core.events.RunLogger`): told of stages, iterations, selections, failures."""
