"""Detectors: methods that the stage fit runs in their own way, and what the other stages say to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from meds.api import Detector, EvaluationDefaults, Options, Plugin, Scores, TrainingFeatures, hookimpl
from meds.core.context import stage_context
from meds.core.errors import PluginError
from meds.core.pipeline import Pipeline
from meds.core.registry import Registry, load_registry
from meds.core.reporter import SilentReporter
from meds.core.runner import Runner, RunRequest
from meds.core.spec import resolve_spec
from meds.core.spec_source import SpecSource


class NearestOptions(Options):
    image_score: str = "max"
    known: bool = False


class Nearest(Detector):
    """Distance to the nearest mean feature of a training image."""

    @classmethod
    def layers_needed(cls, options: Any, backbone: Any) -> tuple[str, ...]:
        return (backbone.layers[0].name,)

    def fit(self, training: TrainingFeatures) -> None:
        self.drawn = torch.rand(1)
        self.count = len(training)
        self.bank = torch.cat([features[0].mean(dim=(2, 3)) for _, features in training.batches(3)])
        self.known = self.score([torch.cat([training.read([i])[0] for i in range(len(training))])], None).maps[0]

    def score(self, features: Sequence[Tensor], classes: Any) -> Scores:
        tokens = features[0].flatten(2).transpose(1, 2)
        distances = torch.cdist(tokens, self.bank.expand(len(tokens), -1, -1)).amin(dim=2)
        maps = distances.unflatten(1, features[0].shape[2:])
        return Scores([maps], maps.flatten(1).amax(dim=1) * 3 if self.options.image_score == "own" else None)

    def state(self) -> dict[str, Tensor]:
        return {"bank": self.bank, "known": self.known, "drawn": self.drawn}

    def load_state(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        self.bank, self.known, self.drawn = state["bank"].to(device), state["known"], state["drawn"]

    def training_scores(self) -> Scores | None:
        return Scores([self.known + 1]) if self.options.known else None

    def evaluation_defaults(self) -> EvaluationDefaults:
        return EvaluationDefaults(map_size=32, smoothing="none", image_score=self.options.image_score)


@hookimpl
def meds_students() -> list[Plugin]:
    return [Plugin("nearest", NearestOptions, f"{__name__}:Nearest", "Nearest mean feature.")]


@pytest.fixture
def plugged() -> Registry:
    found = load_registry()
    found.register_module(SimpleNamespace(meds_students=meds_students), "nearest", "1")
    assert not found.broken
    return found


def run(spec: dict[str, Any], found: Registry, folder: Path, **changes: Any) -> dict[str, Any]:
    data = {**spec, "student": {"type": "nearest"}, "stages": [{"type": "fit"}, {"type": "evaluate"}], **changes}
    pipeline = Pipeline(resolve_spec(SpecSource("spec", data), found), found)
    metrics = Runner(pipeline, RunRequest(folder), SilentReporter()).run()
    assert metrics is not None
    return metrics


def ranking(folder: Path) -> dict[str, float]:
    rows = [line.split(",") for line in (folder / "ranking.csv").read_text().splitlines()[1:]]
    return {row[1]: float(row[3]) for row in rows}


def test_a_detector_runs_and_runs_again_alike(tiny_spec: dict[str, Any], plugged: Registry, project: Any) -> None:
    first = run(tiny_spec, plugged, project.root / "first")
    again = run({**tiny_spec, "name": "again"}, plugged, project.root / "again")
    assert first["mean"] == again["mean"]
    assert 0 <= first["mean"]["image_auroc"] <= 1


@pytest.mark.parametrize("classes", ["unified", "separate"])
def test_known_scores_of_the_training_images_are_taken(
    tiny_spec: dict[str, Any], plugged: Registry, project: Any, classes: str
) -> None:
    base = tiny_spec | {"classes": classes, "dataset": tiny_spec["dataset"] | {"classes": ["weave", "discs"]}}
    run(base, plugged, project.root / "plain")
    run(base, plugged, project.root / "known", student={"type": "nearest", "known": True})
    plain, known = ranking(project.root / "plain"), ranking(project.root / "known")
    assert known.keys() == plain.keys()
    assert all(known[path] == pytest.approx(plain[path] + 1, abs=1e-4) for path in plain)


def predictions(folder: Path) -> list[float]:
    return [float(line.split(",")[3]) for line in (folder / "predictions.csv").read_text().splitlines()[1:]]


def test_image_scores_of_patches_and_of_the_detector_itself(
    tiny_spec: dict[str, Any], plugged: Registry, project: Any
) -> None:
    for score in ("patch-max", "own"):
        run(tiny_spec, plugged, project.root / score, student={"type": "nearest", "image_score": score})
    patch, own = predictions(project.root / "patch-max"), predictions(project.root / "own")
    assert own == pytest.approx([3 * value for value in patch], rel=1e-5)


def test_a_detector_without_own_image_scores(tiny_spec: dict[str, Any], plugged: Registry, project: Any) -> None:
    stages = [{"type": "fit"}, {"type": "evaluate", "image_score": "own"}]
    with pytest.raises(PluginError, match=r"`image_score: own` is for detectors that score whole images"):
        run(tiny_spec, plugged, project.root / "run", stages=stages)


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        ([{"type": "memory", "features": "final"}, {"type": "distill"}], "The stage `distill` needs a student that"),
        ([{"type": "memory", "features": "targets"}], "searches the student's targets, and 'nearest' has none"),
        ([{"type": "fit", "iterations": 3}], "The option 'iterations' of the stage `fit` is for students"),
        ([{"type": "fit", "distance": "euclidean"}], "The option 'distance' of the stage `fit` is for students"),
    ],
)
def test_stages_that_need_a_network_say_so_before_anything_runs(
    tiny_spec: dict[str, Any], plugged: Registry, project: Any, stages: list[dict[str, Any]], sentence: str
) -> None:
    with pytest.raises(PluginError, match=sentence):
        run(tiny_spec, plugged, project.root / "run", stages=stages)
    assert not (project.root / "run" / "run.json").exists()


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_a_recipe_is_not_an_option_that_detectors_refuse(
    tiny_spec: dict[str, Any], plugged: Registry, project: Any, recipe: str
) -> None:
    metrics = run(tiny_spec, plugged, project.root / "run", recipe=recipe)
    assert metrics["mean"]


def test_memory_alone_needs_no_student_s_targets(tiny_spec: dict[str, Any], plugged: Registry, project: Any) -> None:
    metrics = run(
        tiny_spec, plugged, project.root / "run", stages=[{"type": "memory", "features": "final"}, {"type": "evaluate"}]
    )
    assert metrics["ranking"]["mean"]


def test_a_detector_may_look_at_the_images(tiny_spec: dict[str, Any], plugged: Registry, tmp_path: Path) -> None:
    tiny_spec["dataset"]["image_size"] = 96
    tiny_spec["backbone"]["resize"] = 80
    pipeline = Pipeline(resolve_spec(SpecSource("spec", {**tiny_spec, "stages": [{"type": "fit"}]}), plugged), plugged)
    context = stage_context(pipeline, "fit", work=tmp_path)
    seen = TrainingFeatures(context, pipeline.data.train, "all").images([5, 0])
    for pixels, sample in zip(seen, (pipeline.data.train[5], pipeline.data.train[0]), strict=True):
        whole = Image.fromarray(pipeline.dataset.read_image(sample.record))
        small = whole.resize((80, 80), Image.Resampling.BILINEAR).crop((8, 8, 72, 72))
        assert np.array_equal(pixels.numpy(), np.asarray(small))


def test_copies_of_an_image_have_one_content(tiny_spec: dict[str, Any], plugged: Registry, tmp_path: Path) -> None:
    pipeline = Pipeline(resolve_spec(SpecSource("spec", {**tiny_spec, "stages": [{"type": "fit"}]}), plugged), plugged)
    context = stage_context(pipeline, "fit", work=tmp_path)
    train = pipeline.data.train
    seen = TrainingFeatures(context, [train[3], train[0], train[3], train[5], train[0]], "all")
    assert seen.contents.tolist() == [0, 1, 0, 2, 1]
