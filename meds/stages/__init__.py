"""The stages that ship with meds: memory, distill, select-finetune, fit, evaluate."""

from __future__ import annotations

from collections.abc import Sequence

from meds.core.hookspecs import hookimpl
from meds.core.registry import Plugin
from meds.stages import options


@hookimpl
def meds_stages() -> Sequence[Plugin]:
    """The built-in stages."""
    return [
        Plugin(
            "memory",
            options.MemoryOptions,
            "meds.stages.memory:Memory",
            "Score training patches against sparse random memories.",
            options.MEMORY_RECIPES,
            version="3",
        ),
        Plugin(
            "distill",
            options.DistillOptions,
            "meds.stages.distill:Distill",
            "Teach a random student the memory's score maps.",
            options.DISTILL_RECIPES,
            version="2",
        ),
        Plugin(
            "select-finetune",
            options.SelectFinetuneOptions,
            "meds.stages.select_finetune:SelectFinetune",
            "Fine-tune the student on images that it selects itself.",
            options.SELECT_FINETUNE_RECIPES,
            selects=True,
            version="2",
        ),
        Plugin(
            "fit",
            options.FitOptions,
            "meds.stages.fit:Fit",
            "Train the student on all images but those held out: the baseline.",
            options.FIT_RECIPES,
            version="2",
        ),
        Plugin(
            "evaluate",
            options.EvaluateOptions,
            "meds.stages.evaluate:Evaluate",
            "Metrics, predictions and the ranking of training images.",
            options.EVALUATE_RECIPES,
            version="4",
        ),
    ]
