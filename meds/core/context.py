"""Builds what a stage sees, for a run, an estimate or a finished run alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from meds.core.data import Sample
from meds.core.errors import UserError
from meds.core.feature_cache import FeatureCache
from meds.core.images import resize_and_crop
from meds.core.partitions import partitions_of
from meds.core.pipeline import Pipeline
from meds.core.reporter import Reporter, SilentReporter
from meds.core.selection import SelectionRule
from meds.core.stage import Scorer, StageContext
from meds.core.store import Artifact, ArtifactWriter, NoOutput


def no_scorer(artifact: Artifact) -> Scorer:
    """Stands where no other stage's scorer may be asked for."""
    raise UserError(f"The artifact {artifact.fingerprint} cannot be scored with from here.")


def no_event(*_: Any, **__: Any) -> None:
    """Stands where nobody listens to events."""


def stage_context(
    pipeline: Pipeline,
    name: str,
    *,
    inputs: Mapping[str, Artifact] | None = None,
    output: ArtifactWriter | None = None,
    work: Path = Path(),
    reporter: Reporter | None = None,
    features: FeatureCache | None = None,
    emit: Callable[..., None] = no_event,
    scorer_of: Callable[[Artifact], Scorer] = no_scorer,
) -> StageContext:
    """The context of a stage of this pipeline; what is left out can neither write, tell nor score."""
    return StageContext(
        name=name,
        seed=pipeline.spec.seed,
        data=pipeline.data,
        partitions=partitions_of(pipeline.spec.classes, pipeline.data.class_names),
        backbone=pipeline.backbone,
        features=pipeline.features if features is None else features,
        runtime=pipeline.runtime,
        reporter=reporter or SilentReporter(),
        student_class=pipeline.student_class,
        student_options=pipeline.spec.student.options,
        selection_rule=partial(_selection_rule, pipeline),
        inputs=inputs or {},
        output=output or NoOutput(),
        work=work,
        emit=emit,
        scorer_of=scorer_of,
        read_mask=partial(_read_mask, pipeline),
        read_image=partial(_read_image, pipeline),
    )


def _selection_rule(pipeline: Pipeline, block: Mapping[str, Any]) -> Any:
    registration = pipeline.registry.get("selection rule", str(block["type"]))
    options = {key: value for key, value in block.items() if key != "type"}
    return registration.load(SelectionRule)(registration.plugin.options.model_validate(options))


def _read_mask(pipeline: Pipeline, sample: Sample) -> Any:
    return pipeline.dataset.mask(sample.record)


def _read_image(pipeline: Pipeline, sample: Sample) -> Any:
    return resize_and_crop(pipeline.dataset.image(sample.record), pipeline.backbone.preprocessing)
