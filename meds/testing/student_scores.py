"""What the scores of a student are checked for: by themselves, in bf16, on odd sizes, after being stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from meds.core.errors import PluginError
from meds.core.runtime import Runtime
from meds.core.scoring import Distance, score_map
from meds.core.store import tensor_bytes
from meds.testing.base import check, require
from meds.testing.bits import difference, same_bits
from meds.testing.models import ModelKit, check_close, check_map, classes_of, shown
from meds.testing.tiny_training import FEW_STEPS, train_steps

DISTANCES: tuple[Distance, ...] = ("cosine", "euclidean")


class StudentScoreChecks(ModelKit):
    """The part of the kit for students that looks at scores."""

    @check
    def test_score_map_gives_a_gradient(self) -> None:
        """The gradient of the patch distance reaches the weights, as distillation needs it."""
        for case in self.cases():
            for distance in DISTANCES:
                student, features = case.new(), case.features()
                student.train()
                scores = score_map(student.targets(features), student(features, classes_of(4)), distance)
                require(
                    scores.requires_grad, f"{case.who} gives score maps without a gradient: it cannot be distilled."
                )
                scores.mean().backward()  # type: ignore[no-untyped-call]
                gradients = [p.grad for p in student.parameters() if p.grad is not None]
                reached = bool(gradients) and any(bool(gradient.any()) for gradient in gradients)
                require(reached, f"{case.who} gets no gradient from its {distance} score map: it cannot be distilled.")
                finite = all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
                require(finite, f"{case.who} gets a gradient from its {distance} score map that is not finite.")

    @check
    def test_scores_are_finite_and_not_negative(self) -> None:
        """Score maps are float32 [B, H, W], finite and not negative, of black images and of empty maps too."""
        for case in self.cases():
            student, size = case.new(), case.backbone.preprocessing.size
            train_steps(student, case.features(), classes_of(4), FEW_STEPS)
            black = case.features_of(torch.zeros(2, 3, size, size))
            nothing = [torch.zeros_like(feature) for feature in black]
            for features in (case.features(3, seed=1), black, nothing):
                for distance in DISTANCES:
                    for found in scored(student, features, distance):
                        check_map(case.who, found, len(features[0]))

    @check
    def test_scores_do_not_depend_on_the_batch(self) -> None:
        """An image has the same scores alone and among others."""
        for case in self.cases():
            student, features = case.new(), case.features(5)
            train_steps(student, case.features(), classes_of(4), FEW_STEPS)
            together = scored(student, features)
            for row in range(5):
                alone = scored(student, [feature[row : row + 1] for feature in features], classes=classes_of(5)[[row]])
                for whole, single in zip(together, alone, strict=True):
                    check_close(case.who, whole[row], single[0], "scores an image otherwise alone than among others")

    @check
    def test_state_survives_safetensors(self) -> None:
        """A trained student that is written and read again has the same state and scores, to the bit."""
        for case in self.cases():
            student, features = case.new(), case.features()
            train_steps(student, features, classes_of(4), FEW_STEPS)
            wanted, state = scored(student, features), student.state_dict()
            again = case.new(1)
            again.load_state_dict(load_tensors(tensor_bytes(state)))
            found = difference(state, again.state_dict())
            require(not found, f"{case.who} has another state after it was written and read again: {found}.")
            equal = all(same_bits(a, b) for a, b in zip(wanted, scored(again, features), strict=True))
            require(
                equal,
                f"{case.who} gives other scores after it was written and read again: something that they depend on is "
                "not in its state; make it a parameter or a buffer.",
            )

    @check
    def test_bf16(self) -> None:
        """Under bf16 autocast a training step and scores are finite."""
        autocast = Runtime("cpu", "bf16", 1).autocast
        for case in self.cases():
            student, features = case.new(), case.features()
            losses = train_steps(student, features, classes_of(4), FEW_STEPS, autocast=autocast)
            require(all(torch.isfinite(torch.tensor(losses))), f"{case.who} has a loss in bf16 that is not finite.")
            finite = all(bool(torch.isfinite(value).all()) for value in student.state_dict().values())
            require(finite, f"{case.who} has weights after training in bf16 that are not finite.")
            with autocast():
                for found in scored(student, features):
                    check_map(f"{case.who} in bf16,", found, 4)

    @check
    def test_odd_image_sizes(self) -> None:
        """Maps with odd sides train and score, unless a PluginError refuses them before anything is computed."""
        for case in self.odd_cases():
            student, features = case.new(), case.features()
            for target, output in zip(student.targets(features), student(features, classes_of(4)), strict=True):
                same = target.shape == output.shape
                require(same, f"{case.who} gives an output {shown(output)} for a target {shown(target)}.")
            train_steps(student, features, classes_of(4), 1)
            for found in scored(student, features):
                check_map(case.who, found, 4)

    @check
    def test_batch_of_one(self) -> None:
        """One image alone is scored; it is trained on, too, unless a PluginError says why it cannot be."""
        for family, block in self.encoder_blocks().items():
            sizes = [{}] if self.backbone is not None else [{}, {"image_size": 32}]
            for size in sizes:
                case = self.case({**block, **size})
                student, features = case.new(), case.features(1)
                try:
                    train_steps(student, features, classes_of(1), 1)
                except PluginError as error:
                    require(bool(str(error).strip()), f"{case.who} refuses a batch of one {family} map without a word.")
                for found in scored(student, features):
                    check_map(case.who, found, 1)

    @check
    def test_evaluation_defaults_are_sane(self) -> None:
        """Map size, smoothing and image score can be used."""
        for case in self.cases():
            self.check_evaluation(case.who, case.new().evaluation_defaults(), own=False)


def scored(
    student: Any, features: Sequence[Tensor], distance: Distance = "cosine", classes: Any = None
) -> list[Tensor]:
    """The student's own anomaly maps of images in evaluation mode, as the stage evaluate asks for them."""
    student.eval()
    with torch.inference_mode():
        targets = student.targets(features)
        outputs = student(features, classes_of(len(features[0])) if classes is None else classes)
        found: list[Tensor] = student.anomaly_maps(targets, outputs, distance)
    return [value.clone() for value in found]
