"""The stage evaluate: its options stand over the student's own evaluation."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hvq_cases import HVQ, SMALL
from stage_cases import make_context

from meds.core.backbone import Preprocessing
from meds.core.data import Sample
from meds.core.dataset import Record
from meds.core.errors import PluginError
from meds.core.model import EvaluationDefaults, Scores
from meds.core.partitions import StudentScorer
from meds.core.reporter import SilentReporter
from meds.plugins.students.hvq import HVQOptions
from meds.stages.evaluate import Evaluate
from meds.stages.image_scores import ImageScores
from meds.stages.odd_masks import say_unmasked
from meds.stages.options import EvaluateOptions

GIVEN: dict[str, Any] = {
    "map_size": 64,
    "smoothing": "gaussian5",
    "sigma": 2.0,
    "image_score": "max",
    "top_fraction": 0.5,
    "pool_window": 4,
    "mask_rule": "half",
    "mask_resize": "bilinear",
}
# What an option needs beside it to have an effect.
NEEDS = {"sigma": {"smoothing": "gaussian"}, "top_fraction": {"image_score": "top"}}


def evaluation(folder: Path, **options: Any) -> EvaluationDefaults:
    context = make_context([torch.randn(4, 6, 4, 4)], ["a", "b", "b", "a"], folder, student_class=HVQ)
    context.student_options = HVQOptions(**SMALL, layers=["layer0"])
    return Evaluate(EvaluateOptions(**options)).evaluation(context)


@pytest.mark.parametrize("name", GIVEN)
def test_an_option_changes_what_it_names_and_nothing_else(tmp_path: Path, name: str) -> None:
    needs = NEEDS.get(name, {})
    published, changed = evaluation(tmp_path, **needs), evaluation(tmp_path, **needs, **{name: GIVEN[name]})
    different = {f.name for f in fields(changed) if getattr(changed, f.name) != getattr(published, f.name)}
    assert different == {name}
    assert getattr(changed, name) == GIVEN[name]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"top_fraction": 0.5}, "`top_fraction` of the stage `stage` has no effect without `image_score: top`"),
        ({"pool_window": 4, "image_score": "max"}, "`pool_window` .* has no effect without `image_score: pooled-max`"),
        ({"sigma": 2.0}, "`sigma` of the stage `stage` has no effect without a `smoothing`"),
    ],
)
def test_an_option_without_effect_is_refused(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PluginError, match=sentence):
        evaluation(tmp_path, **options)


class Scaled(StudentScorer):
    """Scores of any size."""

    factors: Any = iter([1.0, 1e6])

    def scores(self, features: Any, classes: torch.Tensor) -> Scores:
        factor = next(self.factors)
        return Scores([maps * factor + 1 for maps in super().scores(features, classes).maps])


def test_large_patch_maps_are_kept_as_they_are(tmp_path: Path) -> None:
    context = make_context([torch.randn(2, 6, 4, 4)], ["a"] * 2, tmp_path)
    scorer = Scaled(context, [context.new_student("all").eval()], "cosine", own_maps=True)
    found = ImageScores(context, scorer, context.data.train, EvaluationDefaults(map_size=8, smoothing="none"), 1)
    with SilentReporter().bar("", 2) as bar, torch.inference_mode():
        found.score(range(2), bar)
    assert found.patches.dtype == torch.float32
    assert 1 <= found.patches[0].min() < found.patches[0].max() < 4
    assert found.patches[1].max() > 65504


def test_scores_lie_in_the_order_of_the_images_whatever_order_they_are_scored_in(tmp_path: Path) -> None:
    context = make_context([torch.randn(7, 6, 4, 4)], ["a"] * 7, tmp_path)
    students = [context.new_student("all").eval()]
    scorer = StudentScorer(context, students, "cosine", own_maps=True)
    how = EvaluationDefaults(map_size=8, smoothing="none")
    at_once = ImageScores(context, scorer, context.data.train, how, batch_size=7)
    in_parts = ImageScores(context, scorer, context.data.train, how, batch_size=2)
    with SilentReporter().bar("", 7) as bar, torch.inference_mode():
        maps = at_once.score(range(7), bar, keep=range(7))
        last, first = in_parts.score([6, 3, 4], bar, keep=[3, 6]), in_parts.score([0, 1, 2, 5], bar)
    assert maps.shape == (7, 8, 8)
    assert first.shape == (0, 8, 8)
    torch.testing.assert_close(last, maps[[6, 3]])
    for name in ("images", "robust", "peaks", "middles", "patches"):
        torch.testing.assert_close(getattr(in_parts, name), getattr(at_once, name))
    torch.testing.assert_close(at_once.peaks, maps.amax(dim=(1, 2)))
    assert at_once.patches.dtype == torch.float16


def test_masks_of_defects_without_a_defect_are_said(tmp_path: Path) -> None:
    said: list[str] = []
    reporter = SilentReporter()
    reporter.say = said.append  # type: ignore[method-assign]
    masks = {"a": np.zeros((8, 8), bool), "b": np.eye(8, dtype=bool), "c": np.zeros((8, 8), bool)}
    context = replace(
        make_context([torch.randn(2, 6, 4, 4)], ["x", "x"], tmp_path),
        reporter=reporter,
        read_mask=lambda sample: masks[sample.record.mask],
    )
    context.backbone.preprocessing = Preprocessing(resize=8, size=8)
    samples = [Sample(Record(f"{name}.png", "x", "test", 1, "hole", name), name, 0) for name in masks]
    samples.append(Sample(Record("good.png", "x", "test", 0, "good"), "good", 0))
    stage, how = Evaluate(EvaluateOptions()), EvaluationDefaults(map_size=8)
    stage._pixel_figures(context, samples, torch.rand(4, 8, 8), how)
    assert said == [
        "2 of the defective images' masks hold no defect, and their pixels count as normal; the first is a."
    ]
    stage._pixel_figures(context, samples[1:2] + samples[3:], torch.rand(2, 8, 8), how)
    assert len(said) == 1
    masks["b"] = np.ones((8, 8), bool)
    stage._pixel_figures(context, samples[1:2] + samples[3:], torch.rand(2, 8, 8), how)
    assert said[1].startswith("1 of the defective images' masks cover all of their image; if that is not meant")
    assert said[1].endswith("the first is b.")
    say_unmasked(context, "x", samples)
    assert len(said) == 2
    masks["b"] = np.zeros((64, 64), bool)
    masks["b"][3, 3] = True
    stage._pixel_figures(context, samples[1:2] + samples[3:], torch.rand(2, 8, 8), how)
    assert said.pop().startswith("Of 1 of the 1 masks of defects nothing is left once they are resized and cut as the")
    stage._pixel_figures(context, samples[1:2] + samples[3:], torch.rand(2, 8, 8), replace(how, mask_rule="any"))
    assert len(said) == 2
    samples.append(Sample(Record("lost.png", "x", "test", 1, "hole"), "lost", 0))
    say_unmasked(context, "x", samples)
    assert said[2].startswith("1 of the 4 defective test images of the class 'x' have no mask, and pixel figures are")
    say_unmasked(context, "x", samples[-2:])
    assert len(said) == 3
