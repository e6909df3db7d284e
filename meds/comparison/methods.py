"""The parts of the full method: which stages each has, and how a spec of the full method is cut down to one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meds.core.detector import Detector
from meds.core.model import Model
from meds.core.spec import Spec
from meds.core.spec_source import SpecSource

METHODS = {"plain": "plain student", "memory": "memory alone", "distilled": "distilled", "full": "full MeDS"}
WHOLE = ("memory", "distill", "select-finetune", "evaluate")
_STAGES = {"plain": ("fit",), "memory": WHOLE[:1], "distilled": WHOLE[:2], "full": WHOLE[:3]}
_SHARED_WITH_FIT = ("iterations", "batch_size", "drop_last", "holdout")


def has_parts(source: SpecSource) -> bool:
    """Whether a spec's stages are those of the full method; what stands in for the memory may be a plugin's."""
    stages = source.data.get("stages")
    if not isinstance(stages, list) or len(stages) != len(WHOLE):
        return False
    types = [stage.get("type") if isinstance(stage, Mapping) else None for stage in stages]
    return types[1:] == list(WHOLE[1:])


def method_of(types: Sequence[str]) -> str | None:
    """The method that has these types of stages, evaluations left out; None for any other list."""
    trained = tuple(name for name in types if name != WHOLE[-1])
    return next((method for method, stages in _STAGES.items() if stages == trained), None)


def stages_of(method: str, written: Sequence[dict[str, Any]], whole: Spec) -> list[dict[str, Any]]:
    """The stage list of a method, from the stages `written` in a spec of the full method and that spec, resolved.

    The plain student has no memory that could rank. It trains as long as the full method where that length is written
    down; else each as its paper says, which for INP-Former and HVQ is longer without a selection.
    """
    *parts, evaluate = written
    if method != "plain":
        return [*parts[: len(_STAGES[method])], evaluate]
    if evaluate.get("ranking") == "memory":
        evaluate = {**evaluate, "ranking": "student"}
    return [_fit(parts[0], parts[2], whole), evaluate]


def _fit(memory: Mapping[str, Any], finetune: Mapping[str, Any], whole: Spec) -> dict[str, Any]:
    """The stage `fit` of the plain student."""
    shared = {key: finetune[key] for key in _SHARED_WITH_FIT if key in finetune}
    if "drop_last" not in shared and not issubclass(whole.student.registration.load(Model), Detector):
        # Fine-tuning drops an epoch's rest by itself and `fit` does not: both must see as much of an epoch.
        shared["drop_last"] = whole.stages[2].options.model_dump()["drop_last"]
    if "distance" in memory:
        shared["distance"] = memory["distance"]
    return {"type": "fit", **shared}
