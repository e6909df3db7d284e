"""The kit for detectors catches a broken detector with every one of its checks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from kit_cases import OF_EVERY_KIT, caught, caught_when_slow, kit_of
from torch.nn import functional as F

from meds.core.errors import PluginError
from meds.core.model import EvaluationDefaults, Scores
from meds.testing import DetectorKit
from meds.testing.base import CheckError
from meds.testing.plain_models import PlainDetector


class Negative(PlainDetector):
    def score(self, features, classes):
        return Scores([values - 1e3 for values in super().score(features, classes).maps])


class InDoublePrecision(PlainDetector):
    def score(self, features, classes):
        return Scores([values.double() for values in super().score(features, classes).maps])


class MapsOnly(PlainDetector):
    def score(self, features, classes):
        return super().score(features, classes).maps


class WrongImageScores(PlainDetector):
    def score(self, features, classes):
        maps = super().score(features, classes).maps
        return Scores(maps, maps[0].flatten(1).amax(dim=1, keepdim=True))


class ChangesFeatures(PlainDetector):
    def score(self, features, classes):
        features[0].sub_(self.mean[None, :, None, None])
        return Scores([features[0].square().sum(dim=1)])


class DividesByNothing(PlainDetector):
    def score(self, features, classes):
        return Scores([(features[0] / features[0].norm(dim=1, keepdim=True)).sum(dim=1).abs()])


class PromisesImageScores(PlainDetector):
    def evaluation_defaults(self):
        return EvaluationDefaults(map_size=32, image_score="own")


class DrawsFromElsewhere(PlainDetector):
    def fit(self, training):
        super().fit(training)
        self.mean = self.mean + float(np.random.default_rng().normal())


class CountsTwice(PlainDetector):
    """Goes on from its checkpoint, but looks at the images before it again."""

    def fit(self, training):
        saved = training.checkpoints.load() or {}
        total = saved.get("total", torch.zeros(self.layers[0].channels))
        for position in range(len(training)):
            total = total + training.read([position])[0].mean(dim=(0, 2, 3))
            training.checkpoints.save(position, {"total": total})
        self.mean = total


class GoesOn(PlainDetector):
    """Takes an interruption for a bad image."""

    def fit(self, training):
        means = []
        for position in range(len(training)):
            try:
                means.append(training.read([position])[0].mean(dim=(0, 2, 3)))
            except BaseException:
                continue
        self.mean = torch.stack(means).mean(dim=0)


class Forgetful(PlainDetector):
    """Its scale is fitted and not stored."""

    scale = 1.0

    def load_state(self, state, device):
        super().load_state(state, device)
        self.scale = float(torch.rand(()))

    def score(self, features, classes):
        return Scores([self.scale * values for values in super().score(features, classes).maps])


class SavesNothing(PlainDetector):
    def state(self):
        return {}

    def load_state(self, state, device):
        self.mean = torch.zeros(self.layers[0].channels)


class Rounds(PlainDetector):
    """Stores half of the digits."""

    def state(self):
        return {"mean": self.mean.half()}

    def load_state(self, state, device):
        self.mean = state["mean"].float()


class NumbersInItsState(PlainDetector):
    def state(self):
        return {**super().state(), "count": 3}


class LearnsFromTests(PlainDetector):
    def score(self, features, classes):
        self.mean = 0.9 * self.mean + 0.1 * features[0].mean(dim=(0, 2, 3))
        return super().score(features, classes)


class KnowsTwoImages(PlainDetector):
    def training_scores(self):
        return Scores([torch.zeros(2, 2, 2)])


class OtherSizes(PlainDetector):
    def training_scores(self):
        return Scores([torch.zeros(16, 7, 7)])


class LooksAtNeighbours(PlainDetector):
    def score(self, features, classes):
        return super().score([features[0] - features[0].mean(dim=0)], classes)


class SqueezesTheBatch(PlainDetector):
    def score(self, features, classes):
        maps = super().score(features, classes).maps
        return Scores([values.squeeze() if len(values) == 1 else values for values in maps])


class EvenGridsOnly(PlainDetector):
    def score(self, features, classes):
        half = F.interpolate(F.avg_pool2d(features[0], 2), scale_factor=2)
        return super().score([features[0] - half], classes)


class NeedsThree(PlainDetector):
    def fit(self, training):
        if len(training) < 3:
            raise ValueError("k must be smaller than n")
        super().fit(training)


class BothClasses(PlainDetector):
    def fit(self, training):
        first, second = (training.classes == index for index in (0, 1))
        if not (first.any() and second.any()):
            raise RuntimeError("one class only")
        super().fit(training)


class HalfAndHalf(PlainDetector):
    """Multiplies what autocast made by what it did not."""

    def fit(self, training):
        super().fit(training)
        with training.autocast():
            rotated = torch.eye(len(self.mean)) @ self.mean[:, None]
        self.mean = (torch.eye(len(self.mean)) @ rotated)[:, 0]


class TakesTheFourthLayer(PlainDetector):
    @classmethod
    def layers_needed(cls, options, backbone):
        return (backbone.layers[3].name,)


@pytest.mark.parametrize(
    ("check", "detector", "sentence"),
    [
        ("test_it_loads", dict, "must be a subclass of Detector of meds.api"),
        ("test_fit_and_scores", Negative, "gives a negative score"),
        ("test_fit_and_scores", InDoublePrecision, r"score maps as float32 \[\d+, H, W\], not float64"),
        ("test_fit_and_scores", MapsOnly, "must give Scores, not list"),
        ("test_fit_and_scores", WrongImageScores, r"image scores as float32 \[\d+\], not float32 \[\d+, 1\]"),
        ("test_fit_and_scores", ChangesFeatures, "changes the features that it scores in place"),
        ("test_fit_and_scores", DividesByNothing, "on empty maps, gives scores that are not finite"),
        ("test_fit_and_scores", PromisesImageScores, "gives no image scores of its own"),
        ("test_a_whole_run", PromisesImageScores, "raised PluginError: `image_score: own`"),
        ("test_interrupted_fit_ends_in_the_same_bits", DrawsFromElsewhere, "other bits when it is run again"),
        ("test_interrupted_fit_ends_in_the_same_bits", CountsTwice, "other bits when it is interrupted"),
        ("test_interrupted_fit_ends_in_the_same_bits", GoesOn, "it catches KeyboardInterrupt"),
        ("test_state_survives_safetensors", Forgetful, "other scores after its state was written and read again"),
        ("test_state_survives_safetensors", SavesNothing, "other scores .*; put everything that `score` needs into"),
        ("test_state_survives_safetensors", Rounds, "other scores after its state was written and read again"),
        ("test_state_survives_safetensors", NumbersInItsState, "raised AttributeError: 'int' object"),
        ("test_state_survives_safetensors", LearnsFromTests, "changes its state when it scores"),
        ("test_training_scores", KnowsTwoImages, r"float32 \[\d+, H, W\], not float32 \[2, 2, 2\]"),
        ("test_training_scores", OtherSizes, "maps of other sizes than for new images"),
        ("test_scores_do_not_depend_on_the_batch", LooksAtNeighbours, "otherwise alone than among others"),
        ("test_batch_of_one", SqueezesTheBatch, r"on one image, must give score maps as float32 \[1, H, W\]"),
        ("test_bf16", HalfAndHalf, "raised RuntimeError"),
        ("test_odd_image_sizes", EvenGridsOnly, "raised RuntimeError: The size of tensor"),
        ("test_two_training_images", NeedsThree, "raised ValueError: k must be smaller than n"),
        ("test_classes_separate_and_unified", BothClasses, "raised RuntimeError: one class only"),
        ("test_unsuitable_encoders_are_refused", TakesTheFourthLayer, "raises IndexError"),
    ],
)
def test_a_broken_detector_is_caught(check: str, detector: Any, sentence: str) -> None:
    # An empty tuple of families: those that layers_needed accepts.
    caught(DetectorKit, detector, check, sentence, backbones=("cnn",) if "unsuitable" not in check else ())


def test_a_matrix_that_lies_in_columns_is_stored_without_loss() -> None:
    class Whitens(PlainDetector):
        def fit(self, training):
            super().fit(training)
            matrix = torch.rand(len(self.mean), len(self.mean)) + len(self.mean) * torch.eye(len(self.mean))
            self.inverse = torch.linalg.inv(matrix)
            assert not self.inverse.is_contiguous()

        def score(self, features, classes):
            gaps = (features[0].movedim(1, -1) - self.mean) @ self.inverse
            return Scores([gaps.square().sum(dim=-1).sqrt()])

        def state(self):
            return {**super().state(), "inverse": self.inverse}

        def load_state(self, state, device):
            super().load_state(state, device)
            self.inverse = state["inverse"].to(device)

    kit_of(DetectorKit, Whitens, backbones=("cnn",)).test_state_survives_safetensors()


def test_a_detector_may_refuse_what_it_cannot_do() -> None:
    class Choosy(PlainDetector):
        def fit(self, training):
            if len(training) < 3:
                raise PluginError("give it three images")
            super().fit(training)

    kit_of(DetectorKit, Choosy, backbones=("cnn",)).test_two_training_images()


def test_a_detector_with_an_encoder_of_its_own() -> None:
    class OneEncoderOnly(PlainDetector):
        @classmethod
        def layers_needed(cls, options, backbone):
            if backbone.name != "efficientnet-lite0":
                raise PluginError("it needs efficientnet-lite0")
            return super().layers_needed(options, backbone)

    with pytest.raises(CheckError, match="works with neither a CNN nor a ViT: give the encoder"):
        kit_of(DetectorKit, OneEncoderOnly).test_fit_and_scores()
    encoder = {"type": "efficientnet-lite0", "pretrained": False, "image_size": 64}
    kit = kit_of(DetectorKit, OneEncoderOnly, backbone=encoder)
    kit.test_fit_and_scores()
    kit.test_unsuitable_encoders_are_refused()


def test_a_slow_detector_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    caught_when_slow(DetectorKit, PlainDetector, monkeypatch)


def test_every_check_of_the_kit_catches_something() -> None:
    (marks,) = test_a_broken_detector_is_caught.pytestmark
    tested = {check for check, *_ in marks.args[1]}
    elsewhere = {"test_a_tiny_fit_takes_seconds"}
    assert tested | elsewhere | OF_EVERY_KIT == set(DetectorKit.checks)
