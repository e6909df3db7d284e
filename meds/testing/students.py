"""The kit for students: networks that rebuild teacher maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from meds.core.student import Progress, Student
from meds.testing.base import check, require
from meds.testing.bits import difference, same_bits
from meds.testing.models import Case, classes_of, shown
from meds.testing.student_scores import StudentScoreChecks, scored
from meds.testing.surroundings import temporary_folder
from meds.testing.tiny_run import MEDS, TinyRun, check_repetition
from meds.testing.tiny_training import (
    ENOUGH_STEPS,
    FEW_STEPS,
    check_defaults,
    loss_of,
    optimiser_of,
    train_steps,
)


class StudentKit(StudentScoreChecks):
    """Every check of the contract `Student`."""

    contract = Student

    @check
    def test_shapes_and_types(self) -> None:
        """Targets and outputs are float32 [B, C, H, W] of the same shapes, and the loss is a finite scalar."""
        for case in self.cases():
            features, student = case.features(), case.new()
            targets, outputs = student.targets(features), student(features, classes_of(4))
            for what, maps in (("targets", targets), ("outputs", outputs)):
                good = isinstance(maps, list) and bool(maps) and all(_is_map(found) for found in maps)
                require(good, f"{case.who} must give {what} as a list of float32 [4, C, H, W], not {_all_shown(maps)}.")
                finite = all(bool(torch.isfinite(found).all()) for found in maps)
                require(finite, f"{case.who} gives {what} that are not finite.")
            require(
                [t.shape for t in targets] == [o.shape for o in outputs],
                f"{case.who} gives outputs {_all_shown(outputs)} for targets {_all_shown(targets)}.",
            )
            loss = student.loss(targets, outputs, Progress(0, 10))
            good = isinstance(loss, Tensor) and loss.ndim == 0
            require(good, f"{case.who} must give its loss as a scalar tensor, not {shown(loss)}.")
            require(bool(torch.isfinite(loss)), f"{case.who} starts with a loss of {loss.item()}.")
            require(loss.requires_grad, f"{case.who} gives a loss without a gradient.")

    @check
    def test_targets_depend_on_the_features_only(self) -> None:
        """Targets are the same for all weights, before and after training: memory and students share them."""
        for case in self.cases():
            features, first, second = case.features(), case.new(0), case.new(1)
            wanted = [target.clone() for target in first.targets(features)]
            self._require_targets(case, wanted, second.targets(features), "with other random weights")
            train_steps(first, features, classes_of(4), FEW_STEPS)
            self._require_targets(case, wanted, first.targets(features), "after training")
            first.eval()
            self._require_targets(case, wanted, first.targets(features), "in evaluation mode")
            asking = [feature.requires_grad_() for feature in case.features()]
            for target in second.targets(asking):
                require(not target.requires_grad, f"{case.who} lets the gradient into its targets: detach them.")

    def _require_targets(self, case: Case, wanted: Sequence[Tensor], found: Sequence[Tensor], when: str) -> None:
        equal = all(same_bits(a, b) for a, b in zip(wanted, found, strict=True))
        require(equal, f"{case.who} has other targets {when}: they must depend on the features only.")

    @check
    def test_start_depends_on_the_seed(self) -> None:
        """Parameters start from torch's global generator, which the run seeds."""
        for case in self.cases():
            found = difference(case.new(0).state_dict(), case.new(0).state_dict())
            require(not found, f"{case.who} starts from other weights under the same seed: {found}.")
            require(
                bool(difference(case.new(0).state_dict(), case.new(1).state_dict())),
                f"{case.who} starts from the same weights under another seed: draw them from torch's global generator.",
            )

    @check
    def test_same_seed_gives_the_same_bits(self) -> None:
        """Training and scoring are functions of seed and features."""
        for case in self.cases():
            found = difference(*(self._trained_and_scored(case) for _ in range(2)))
            require(not found, f"{case.who} is not the same after the same training: {found}.")

    def _trained_and_scored(self, case: Case) -> dict[str, Tensor]:
        student, features = case.new(), case.features()
        losses = train_steps(student, features, classes_of(4), FEW_STEPS)
        maps = scored(student, features)
        named = {f"score map {index}": found for index, found in enumerate(maps)}
        return {**student.state_dict(), **named, "losses": torch.tensor(losses, dtype=torch.float64)}

    @check
    def test_gradient_reaches_every_parameter(self) -> None:
        """Within a few steps every trainable parameter gets a finite gradient that is not zero."""
        for case in self.cases():
            student = case.new()
            reached: set[str] = set()

            def note(student: Student, who: str = case.who, reached: set[str] = reached) -> None:
                for name, parameter in student.named_parameters():
                    if parameter.grad is not None:
                        finite = bool(torch.isfinite(parameter.grad).all())
                        require(finite, f"{who} gives '{name}' a gradient that is not finite.")
                        reached |= {name} if bool(parameter.grad.any()) else set()

            train_steps(student, case.features(), classes_of(4), FEW_STEPS, note)
            left = [name for name, p in student.named_parameters() if p.requires_grad and name not in reached]
            require(
                not left,
                f"{case.who} trains parameters that no gradient reaches: {_few(left)}; use them, or make them buffers.",
            )

    @check
    def test_optimiser_has_every_parameter_that_learns(self) -> None:
        """Every trainable parameter that the loss gives a gradient is one that the optimiser moves."""
        for case in self.cases():
            student, features = case.new(), case.features()
            moved = {id(p) for group in optimiser_of(student).param_groups for p in group["params"]}
            student.train()
            targets = student.targets(features)
            student.loss(targets, student(features, classes_of(4)), Progress(0, 10)).backward()
            left = [n for n, p in student.named_parameters() if p.grad is not None and id(p) not in moved]
            require(
                not left,
                f"{case.who} has parameters that its optimiser does not move: {_few(left)}; give the optimiser all "
                "that it is handed, or set requires_grad to False.",
            )

    @check
    def test_features_and_targets_are_left_alone(self) -> None:
        """A training step changes neither the features that it was given nor the targets made of them."""
        for case in self.cases():
            student, features = case.new(), case.features()
            kept = [feature.clone() for feature in features]
            student.train()
            targets = student.targets(features)
            kept_targets = [target.clone() for target in targets]
            student.loss(targets, student(features, classes_of(4)), Progress(0, 10)).backward()
            scored(student, features)
            for before, after in zip([*kept, *kept_targets], [*features, *targets], strict=True):
                require(same_bits(before, after), f"{case.who} changes its features or targets in place.")
                untouched = after.grad is None and not after.requires_grad
                require(untouched, f"{case.who} asks for a gradient of its features or targets.")

    @check
    def test_interrupted_training_ends_in_the_same_bits(self) -> None:
        """A training that is stopped three times and resumed from meds' checkpoints equals an undisturbed one."""
        for family, block in self.encoder_blocks().items():
            with temporary_folder() as folder:
                stages = [{"type": "fit", "iterations": 8, "batch_size": 5}]
                run = TinyRun(self.registry(), folder, stages, student=self.block(), backbone=block)
                check_repetition(run, "fit", f"{self.title}, trained on a {family},")

    @check
    def test_training_lowers_the_loss(self) -> None:
        """Thirty steps on one batch, by its own optimiser and schedule, lower its own loss on that batch."""
        for case in self.cases():
            student, features, classes = case.new(), case.features(), classes_of(4)
            before = loss_of(case.new(), features, classes, student.state_dict(), ENOUGH_STEPS)
            losses = train_steps(student, features, classes, ENOUGH_STEPS)
            finite = all(torch.isfinite(torch.tensor(losses)))
            require(finite, f"{case.who} comes to a loss that is not finite.")
            after = loss_of(case.new(), features, classes, student.state_dict(), ENOUGH_STEPS)
            require(after < before, f"{case.who} has a loss of {after:.4g} after training and of {before:.4g} before.")

    @check
    def test_training_defaults_are_sane(self) -> None:
        """Length, batch size, clipping, optimiser and learning rate can be used, the rate being a pure function."""
        for case in self.cases():
            check_defaults(case.who, case.new())

    @check
    def test_memory_distillation_and_selection(self) -> None:
        """The whole method runs with it: memory, distill, select-finetune, evaluate."""
        self.check_run(MEDS)


def _few(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"


def _is_map(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4 and len(value) == 4 and value.dtype == torch.float32


def _all_shown(values: object) -> str:
    if isinstance(values, (list, tuple)):
        return f"{type(values).__name__} of {', '.join(map(shown, values)) or 'nothing'}"
    return shown(values)
