"""The public interface for plugins: everything that a package may import from meds.

Names are imported when they are first used, so that a module with hooks and options does not import torch. What is
not listed here is private and may change without notice; what is listed follows `API_VERSION`. docs/plugin-api.md
says what each name is for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meds.core.backbone import Backbone, Layer, Preprocessing
    from meds.core.checkpoint import Checkpoints
    from meds.core.contamination import ClassNoise, Contaminated, NoiseProtocol, NoiseReport
    from meds.core.coreset import greedy_coreset, random_projection
    from meds.core.data import RunData, Sample
    from meds.core.dataset import ANOMALOUS, NORMAL, Dataset, DatasetOptions, ImageFileOptions, Record, Split
    from meds.core.detector import Detector, TrainingFeatures
    from meds.core.errors import DataError, MedsError, PluginError, ResourceError, SelectionError, UserError
    from meds.core.events import RunLogger
    from meds.core.hookspecs import API_VERSION, hookimpl
    from meds.core.layer_names import mean_of, on_grid
    from meds.core.model import EvaluationDefaults, Model, Scores
    from meds.core.registry import Options, Plugin
    from meds.core.runtime import Runtime
    from meds.core.scoring import patch_distance, score_map
    from meds.core.seeds import derive_seed
    from meds.core.selection import SelectionRule, robust_maximum
    from meds.core.stage import Partition, Scorer, Stage, StageContext
    from meds.core.store import Artifact, ArtifactWriter
    from meds.core.strides import layers_at_strides
    from meds.core.student import Progress, Student, TrainingDefaults
    from meds.core.weights import backbone_fingerprint, load_checked, read_weights
    from meds.patch_memory.detector import PatchMemoryDetector, PatchWeights
    from meds.patch_memory.memory import PatchMemory
    from meds.patch_memory.options import PatchMemoryOptions
    from meds.patch_memory.patches import TrainingPatches
    from meds.plugins.backbones.packaged import packaged_weights

_MODULES = {
    "meds.core.backbone": ("Backbone", "Layer", "Preprocessing"),
    "meds.core.checkpoint": ("Checkpoints",),
    "meds.core.contamination": ("ClassNoise", "Contaminated", "NoiseProtocol", "NoiseReport"),
    "meds.core.coreset": ("greedy_coreset", "random_projection"),
    "meds.core.data": ("RunData", "Sample"),
    "meds.core.dataset": ("ANOMALOUS", "NORMAL", "Dataset", "DatasetOptions", "ImageFileOptions", "Record", "Split"),
    "meds.core.detector": ("Detector", "TrainingFeatures"),
    "meds.core.errors": ("DataError", "MedsError", "PluginError", "ResourceError", "SelectionError", "UserError"),
    "meds.core.events": ("RunLogger",),
    "meds.core.hookspecs": ("API_VERSION", "hookimpl"),
    "meds.core.layer_names": ("mean_of", "on_grid"),
    "meds.core.model": ("EvaluationDefaults", "Model", "Scores"),
    "meds.core.registry": ("Options", "Plugin"),
    "meds.core.runtime": ("Runtime",),
    "meds.core.scoring": ("patch_distance", "score_map"),
    "meds.core.seeds": ("derive_seed",),
    "meds.core.selection": ("SelectionRule", "robust_maximum"),
    "meds.core.stage": ("Partition", "Scorer", "Stage", "StageContext"),
    "meds.core.store": ("Artifact", "ArtifactWriter"),
    "meds.core.strides": ("layers_at_strides",),
    "meds.core.student": ("Progress", "Student", "TrainingDefaults"),
    "meds.core.weights": ("backbone_fingerprint", "load_checked", "read_weights"),
    "meds.patch_memory.detector": ("PatchMemoryDetector", "PatchWeights"),
    "meds.patch_memory.memory": ("PatchMemory",),
    "meds.patch_memory.options": ("PatchMemoryOptions",),
    "meds.patch_memory.patches": ("TrainingPatches",),
    "meds.plugins.backbones.packaged": ("packaged_weights",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ANOMALOUS",
    "API_VERSION",
    "NORMAL",
    "Artifact",
    "ArtifactWriter",
    "Backbone",
    "Checkpoints",
    "ClassNoise",
    "Contaminated",
    "DataError",
    "Dataset",
    "DatasetOptions",
    "Detector",
    "EvaluationDefaults",
    "ImageFileOptions",
    "Layer",
    "MedsError",
    "Model",
    "NoiseProtocol",
    "NoiseReport",
    "Options",
    "Partition",
    "PatchMemory",
    "PatchMemoryDetector",
    "PatchMemoryOptions",
    "PatchWeights",
    "Plugin",
    "PluginError",
    "Preprocessing",
    "Progress",
    "Record",
    "ResourceError",
    "RunData",
    "RunLogger",
    "Runtime",
    "Sample",
    "Scorer",
    "Scores",
    "SelectionError",
    "SelectionRule",
    "Split",
    "Stage",
    "StageContext",
    "Student",
    "TrainingDefaults",
    "TrainingFeatures",
    "TrainingPatches",
    "UserError",
    "backbone_fingerprint",
    "derive_seed",
    "greedy_coreset",
    "hookimpl",
    "layers_at_strides",
    "load_checked",
    "mean_of",
    "on_grid",
    "packaged_weights",
    "patch_distance",
    "random_projection",
    "read_weights",
    "robust_maximum",
    "score_map",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"meds.api has no public name '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
