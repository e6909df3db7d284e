"""The kit for students catches a broken student with every one of its checks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from kit_cases import OF_EVERY_KIT, LossOfEveryImage, caught, caught_when_slow, kit_of
from torch import nn
from torch.nn import functional as F

from meds.core.errors import PluginError
from meds.core.student import EvaluationDefaults, TrainingDefaults
from meds.testing import StudentKit
from meds.testing.plain_models import PlainStudent


class OfHalfSize(PlainStudent):
    def forward(self, features, classes):
        return [F.avg_pool2d(value, 2) for value in super().forward(features, classes)]


class InTuples(PlainStudent):
    def targets(self, features):
        return tuple(super().targets(features))


class InHalfPrecision(PlainStudent):
    def targets(self, features):
        return [value.half() for value in super().targets(features)]


class LossOfNothing(PlainStudent):
    def loss(self, targets, outputs, progress):
        return super().loss(targets, outputs, progress).detach()


class RandomTargets(PlainStudent):
    """Projects its targets by a matrix that every student draws for itself."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        channels = self.layers[0].channels
        self.register_buffer("matrix", torch.randn(channels, channels))

    def targets(self, features):
        return [torch.einsum("cd,bdhw->bchw", self.matrix, features[0].detach())]


class MovingTargets(PlainStudent):
    """Its targets follow a parameter."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.scale = nn.Parameter(torch.ones(()))

    def targets(self, features):
        return [features[0].detach() * self.scale.detach()]

    def forward(self, features, classes):
        return [self.scale * value for value in super().forward(features, classes)]


class AttachedTargets(PlainStudent):
    def targets(self, features):
        return [features[0]]


class SeedsItself(PlainStudent):
    def __init__(self, *arguments: Any) -> None:
        torch.manual_seed(7)
        super().__init__(*arguments)


class StartsByChance(PlainStudent):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.network[0].weight.data += torch.tensor(np.random.default_rng().normal())


class NoiseFromElsewhere(PlainStudent):
    def forward(self, features, classes):
        noise = np.random.default_rng().normal(size=features[0].shape).astype(np.float32)
        return super().forward([features[0] + torch.from_numpy(noise)] if self.training else features, classes)


class IdleParameter(PlainStudent):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.idle = nn.Linear(3, 3)


class MovesHalf(PlainStudent):
    """Its optimiser leaves out what comes last."""

    def training_defaults(self):
        return replace(super().training_defaults(), optimiser=lambda p: torch.optim.SGD(list(p)[:2]))


class Frozen(MovesHalf):
    """As it should be: what it does not train asks for no gradient."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.network[2].requires_grad_(False)


class ChangesFeatures(PlainStudent):
    def forward(self, features, classes):
        return super().forward([features[0].mul_(2)], classes)


class CannotBeDistilled(PlainStudent):
    """Its loss looks at something else than its outputs, which have no gradient."""

    def forward(self, features, classes):
        self.kept = super().forward(features, classes)
        return [value.detach() for value in self.kept]

    def loss(self, targets, outputs, progress):
        return super().loss(targets, self.kept, progress)


class NegativeMaps(PlainStudent):
    def anomaly_maps(self, targets, outputs, distance):
        return [value - 1 for value in super().anomaly_maps(targets, outputs, distance)]


class DividesByNothing(PlainStudent):
    def forward(self, features, classes):
        return super().forward([features[0] / features[0].abs().amax(dim=(1, 2, 3), keepdim=True)], classes)


class FlatMaps(PlainStudent):
    def anomaly_maps(self, targets, outputs, distance):
        return [value.flatten(1) for value in super().anomaly_maps(targets, outputs, distance)]


class LooksAtNeighbours(PlainStudent):
    def forward(self, features, classes):
        return super().forward([features[0] - features[0].mean(dim=0)], classes)


class DropsOutAlways(PlainStudent):
    def forward(self, features, classes):
        return super().forward([F.dropout(features[0])], classes)


class Forgetful(PlainStudent):
    """Keeps what it saw while training in a plain attribute."""

    mean: Any = 0.0

    def forward(self, features, classes):
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * features[0].mean().item()
        return super().forward([features[0] - self.mean], classes)


class Tied(PlainStudent):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.again = self.network[0]


class CountsSteps(PlainStudent):
    """What it does depends on the number of steps in this process."""

    steps = 0

    def forward(self, features, classes):
        self.steps += self.training
        return [value * (1 + 0.1 * self.steps) for value in super().forward(features, classes)]

    def loss(self, targets, outputs, progress):
        return (targets[0] - outputs[0]).square().mean()


class Climbs(PlainStudent):
    def training_defaults(self):
        return replace(super().training_defaults(), optimiser=lambda p: torch.optim.SGD(p, maximize=True))


class AsksNumpy(PlainStudent):
    def forward(self, features, classes):
        return [value * float(value.detach().numpy().std()) for value in super().forward(features, classes)]


class EvenGridsOnly(PlainStudent):
    def forward(self, features, classes):
        half = F.avg_pool2d(features[0], 2, ceil_mode=False)
        return super().forward([F.interpolate(half, scale_factor=2)], classes)


class NormalisesBatches(PlainStudent):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.norm = nn.BatchNorm2d(self.layers[0].channels)

    def forward(self, features, classes):
        return super().forward([self.norm(features[0])], classes)


class TakesTheFourthLayer(PlainStudent):
    @classmethod
    def layers_needed(cls, options, backbone):
        if backbone.family == "vit":
            raise PluginError("for a CNN")
        return (backbone.layers[3].name,)


class WantsNothing(PlainStudent):
    @classmethod
    def layers_needed(cls, options, backbone):
        return ()


class WantsBothClasses(PlainStudent):
    def forward(self, features, classes):
        assert len(set(classes.tolist())) == 2, "one class only"
        return super().forward(features, classes)


class NeedsGradients(PlainStudent):
    def forward(self, features, classes):
        if not torch.is_grad_enabled():
            raise RuntimeError("no gradients")
        return super().forward(features, classes)


class NotAStudent:
    """No subclass of Student."""


@pytest.mark.parametrize(
    ("check", "student", "sentence"),
    [
        ("test_it_loads", NotAStudent, "must be a subclass of Student of meds.api"),
        ("test_it_loads", len, "which is no class"),
        ("test_shapes_and_types", OfHalfSize, r"gives outputs .*\[4, 32, 1, 1\] for targets .*\[4, 32, 2, 2\]"),
        ("test_shapes_and_types", InTuples, "must give targets as a list of float32"),
        ("test_shapes_and_types", InHalfPrecision, "must give targets as a list of float32 .* not list of float16"),
        ("test_shapes_and_types", LossOfEveryImage, r"loss as a scalar tensor, not float32 \[4\]"),
        ("test_shapes_and_types", LossOfNothing, "loss without a gradient"),
        ("test_targets_depend_on_the_features_only", RandomTargets, "other targets with other random weights"),
        ("test_targets_depend_on_the_features_only", MovingTargets, "other targets after training"),
        ("test_targets_depend_on_the_features_only", AttachedTargets, "detach them"),
        ("test_start_depends_on_the_seed", SeedsItself, "the same weights under another seed"),
        ("test_start_depends_on_the_seed", StartsByChance, "other weights under the same seed"),
        ("test_same_seed_gives_the_same_bits", NoiseFromElsewhere, "not the same after the same training"),
        ("test_gradient_reaches_every_parameter", IdleParameter, "no gradient reaches: idle.weight, idle.bias"),
        (
            "test_optimiser_has_every_parameter_that_learns",
            MovesHalf,
            "parameters that its optimiser does not move: network.2.weight, network.2.bias; give the optimiser all",
        ),
        ("test_features_and_targets_are_left_alone", ChangesFeatures, "changes its features or targets in place"),
        ("test_score_map_gives_a_gradient", CannotBeDistilled, "without a gradient: it cannot be distilled"),
        ("test_scores_are_finite_and_not_negative", NegativeMaps, "gives a negative score"),
        ("test_scores_are_finite_and_not_negative", DividesByNothing, "scores that are not finite"),
        ("test_scores_are_finite_and_not_negative", FlatMaps, r"float32 \[3, H, W\], not float32 \[3, 4\]"),
        ("test_scores_do_not_depend_on_the_batch", LooksAtNeighbours, "otherwise alone than among others"),
        ("test_scores_do_not_depend_on_the_batch", DropsOutAlways, "otherwise alone than among others"),
        ("test_state_survives_safetensors", Forgetful, "something that they depend on is not in its state"),
        ("test_state_survives_safetensors", Tied, "share"),
        ("test_interrupted_training_ends_in_the_same_bits", CountsSteps, "other bits when it is interrupted"),
        ("test_interrupted_training_ends_in_the_same_bits", NoiseFromElsewhere, "other bits when it is run again"),
        ("test_training_lowers_the_loss", Climbs, "has a loss of .* after training and of .* before"),
        ("test_bf16", AsksNumpy, "raised TypeError: .*BFloat16"),
        (
            "test_odd_image_sizes",
            EvenGridsOnly,
            r"gives an output .* for a target float32 \[4, 32, 3, 3\]",
        ),
        ("test_batch_of_one", NormalisesBatches, "raised ValueError: Expected more than 1 value per channel"),
        (
            "test_unsuitable_encoders_are_refused",
            TakesTheFourthLayer,
            "random-cnn with stages 1.* IndexError",
        ),
        ("test_shapes_and_types", WantsNothing, r"as a tuple of names, not \(\)"),
        ("test_classes_separate_and_unified", WantsBothClasses, "raised AssertionError: one class only"),
        ("test_memory_distillation_and_selection", NeedsGradients, "raised RuntimeError: no gradients"),
    ],
)
def test_a_broken_student_is_caught(check: str, student: Any, sentence: str) -> None:
    caught(StudentKit, student, check, sentence, backbones=("cnn",))


def test_parameters_that_are_frozen_need_no_optimiser() -> None:
    kit_of(StudentKit, Frozen, backbones=("cnn",)).test_optimiser_has_every_parameter_that_learns()


def test_a_family_that_is_not_declared_must_be_refused() -> None:
    kit = kit_of(StudentKit, PlainStudent, backbones=("cnn",))
    with pytest.raises(AssertionError, match="accepts a vit, but its kit does not declare it"):
        kit.test_unsuitable_encoders_are_refused()


def rate(value: float) -> Any:
    return lambda iteration, total: value


class Scheduler:
    """A learning rate that halves whenever it is asked for."""

    def __init__(self) -> None:
        self.value = 1.0

    def __call__(self, iteration: int, total: int) -> float:
        self.value /= 1.001
        return self.value


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epochs": 3}, "raised PluginError: TrainingDefaults: set exactly one of iterations and epochs"),
        ({"iterations": None}, "raised PluginError: TrainingDefaults: set exactly one"),
        ({"iterations": 0}, "iterations = 0, which must be over 0"),
        ({"clip_norm": -1.0}, r"clip_norm = -1.0"),
        ({"batch_size": 0}, "batch_size cannot be 0"),
        ({"optimiser": lambda parameters: None}, "must make a torch optimiser"),
        ({"learning_rate": rate(-0.1)}, "negative or not finite"),
        ({"learning_rate": rate(float("nan"))}, "negative or not finite"),
        ({"learning_rate": rate(0.0)}, "a learning rate of 0 throughout"),
        ({"learning_rate": Scheduler()}, "depends on what was asked before"),
    ],
)
def test_training_defaults_that_cannot_be_used_are_caught(changes: dict[str, Any], sentence: str) -> None:
    class Defaults(PlainStudent):
        def training_defaults(self) -> TrainingDefaults:
            return replace(super().training_defaults(), **changes)

    caught(StudentKit, Defaults, "test_training_defaults_are_sane", sentence, backbones=("cnn",))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"map_size": 4}, "map_size = 4 for evaluation, which must be 8 or more"),
        ({"resize": 0}, "resize cannot be 0"),
        ({"sigma": 0.0}, "sigma cannot be 0.0"),
        ({"top_fraction": 2.0}, "top_fraction cannot be 2.0"),
        ({"upsampling": "bicubic"}, "upsampling cannot be 'bicubic': it is one of bilinear, nearest"),
        ({"smoothing": "box"}, "smoothing cannot be 'box': it is one of none, gaussian, gaussian5"),
        ({"image_score": "mean"}, "image_score cannot be 'mean'"),
        ({"image_score": "own"}, "gives no image scores of its own"),
    ],
)
def test_evaluation_defaults_that_cannot_be_used_are_caught(changes: dict[str, Any], sentence: str) -> None:
    class Defaults(PlainStudent):
        def evaluation_defaults(self) -> EvaluationDefaults:
            return replace(super().evaluation_defaults(), **changes)

    caught(StudentKit, Defaults, "test_evaluation_defaults_are_sane", sentence, backbones=("cnn",))


def test_a_slow_student_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    caught_when_slow(StudentKit, PlainStudent, monkeypatch)


def test_every_check_of_the_kit_catches_something() -> None:
    (marks,) = test_a_broken_student_is_caught.pytestmark
    tested = {check for check, *_ in marks.args[1]}
    elsewhere = {
        "test_training_defaults_are_sane",
        "test_evaluation_defaults_are_sane",
        "test_a_tiny_fit_takes_seconds",
    }
    assert tested | elsewhere | OF_EVERY_KIT == set(StudentKit.checks)
