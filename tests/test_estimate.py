"""Estimates of a plan: sizes equal what a run writes, times are counts of what the stages do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

import meds.core.timing
import meds.stages.scoring_pass
from meds.core.estimate import PlanEstimate, estimate
from meds.core.feature_cache import folder_bytes
from meds.core.registry import load_registry
from meds.stages import nearest
from meds.testing.tiny_run import TinyRun

STAGES = [
    {"type": "memory", "grid": 4},
    {"type": "distill", "iterations": 4, "batch_size": 4},
    {"type": "select-finetune", "iterations": 6, "batch_size": 4, "critical_value": 3.0},
    {"type": "evaluate"},
]


def tiny(folder: Path, stages: Sequence[Mapping[str, object]]) -> TinyRun:
    """A run of these stages with a random encoder."""
    encoder = {"type": "efficientnet-lite0", "image_size": 64, "pretrained": False}
    student = {"type": "rd", "blocks": [1, 1, 1], "bottleneck_blocks": 1}
    return TinyRun(load_registry(), folder, stages, backbone=encoder, student=student)


def seconds(found: PlanEstimate, stage: str) -> float | None:
    return next(s.seconds for s in found.stages if s.name == stage)


def test_before_and_after_a_run(tmp_path: Path) -> None:
    run = tiny(tmp_path, STAGES)
    before = estimate(run.pipeline)
    assert before.images_to_encode == before.images > 0
    assert before.encode_seconds > 0
    assert all(not stage.done and (stage.seconds or 0) > 0 for stage in before.stages)
    assert not run.pipeline.store.has(before.stages[0].fingerprint), "an estimate keeps nothing"
    assert folder_bytes(run.pipeline.features.folder) == 0
    run.run()
    after = estimate(run.pipeline)
    assert (after.images_to_encode, after.encode_seconds) == (0, 0.0)
    assert all(stage.done and stage.seconds == 0.0 for stage in after.stages)
    # Only the headers of the files come on top.
    assert after.feature_bytes == before.feature_bytes
    assert before.feature_bytes == pytest.approx(folder_bytes(run.pipeline.features.folder), rel=0.1)


def test_bytes_of_the_memory_follow_its_own_options(tmp_path: Path) -> None:
    run = tiny(tmp_path, STAGES)
    planned = run.pipeline.stages[0]
    train = run.pipeline.data.train
    largest = max(sum(s.class_index == c for s in train) for c in range(len(run.pipeline.data.class_names)))
    channels = sum(run.pipeline.backbone.layer(name).channels for name in run.pipeline.student_layers)
    assert planned.stage.options.grid == 4
    assert estimate(run.pipeline).memory_bytes == round(largest * 4 * 4 * channels * 5.4)


def test_bytes_of_the_memory_follow_its_candidates_and_its_scorer(tmp_path: Path) -> None:
    def held(name: str, stages: Sequence[Mapping[str, object]], **options: object) -> tuple[int, int]:
        """Bytes, and those of one of the largest class's images in float32."""
        run = tiny(tmp_path / name, [{**STAGES[0], **options}, *stages])
        run.pipeline.runtime.precision, run.pipeline.runtime.threads = "bf16", 1
        channels = sum(run.pipeline.backbone.layer(layer).channels for layer in run.pipeline.student_layers)
        return estimate(run.pipeline).memory_bytes, 16 * channels

    others = STAGES[1:]
    (whole, image), (half, _) = held("whole", others), held("half", others, max_images=2)
    channels = image // 16
    copy = nearest.copied_bytes(channels, coarse=True) + 16
    assert half == round(2 * image * 5.4) + 2 * 16 * copy
    assert half < whole
    images = round(whole / (image * 5.4))
    assert held("scorer", STAGES[3:])[0] == images * (image * 4 + 16 * copy)


def test_where_no_student_scores_the_evaluation_cannot_tell(tmp_path: Path) -> None:
    run = tiny(tmp_path, [STAGES[0], STAGES[3]])
    found = estimate(run.pipeline)
    assert (seconds(found, "memory") or 0) > 0
    assert seconds(found, "evaluate") is None


def test_fine_tuning_is_steps_and_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a step and a pass over a batch at one second each, the estimate is their number."""
    monkeypatch.setattr(meds.core.timing, "step_seconds", lambda *_: 1.0)

    def once(work: Callable[[], object]) -> float:
        work()
        return 1.0

    monkeypatch.setattr(meds.stages.scoring_pass, "seconds_of", once)
    every, seldom = (
        seconds(estimate(tiny(tmp_path / str(n), _scoring(n)).pipeline), "select-finetune") for n in (1, 3)
    )
    assert every is not None
    assert seldom is not None
    assert every > seldom > 6.0
    monkeypatch.setattr(meds.stages.scoring_pass, "scoring_passes", lambda *_: -1)
    alone = estimate(tiny(tmp_path / "none", STAGES).pipeline)
    assert seconds(alone, "select-finetune") == pytest.approx(6.0)


def _scoring(interval: int) -> list[dict[str, object]]:
    return [*STAGES[:2], {**STAGES[2], "scoring_interval": interval}, STAGES[3]]
