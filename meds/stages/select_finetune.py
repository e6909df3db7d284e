"""Stage select-finetune: the student trains on images that it selects itself (paper eq. 10-13, algorithm 1)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from meds.core.backbone import Backbone
from meds.core.calibration import held_out
from meds.core.checkpoint import Checkpoints
from meds.core.data import Sample
from meds.core.epochs import TrainingLength, shuffled, stage_length
from meds.core.errors import SelectionError
from meds.core.model import Model
from meds.core.partitions import StudentScorer, load_student, refuse_detector, student_file, student_scorer
from meds.core.scoring import Distance
from meds.core.seeds import derive_seed
from meds.core.selection import SelectionRule, checked_threshold, robust_maximum
from meds.core.stage import Partition, Stage, StageContext
from meds.core.store import Artifact
from meds.core.student import Progress, Student
from meds.core.timing import training_seconds
from meds.core.training import train
from meds.stages.fit import own_objective
from meds.stages.options import SelectFinetuneOptions
from meds.stages.scoring_pass import scoring_interval, scoring_seconds, settle, training_scores
from meds.stages.selection_check import refuse_small_classes
from meds.stages.thresholds import write_held_out


class SelectFinetune(Stage):
    """Artifact kind "student": students, selection and, as `Fit` writes it, `holdout.safetensors`.

    Its info has `robust_maximum`: `percent` and `rounding` of the mean that is an image's score in the selection.

    `selection.json` has a row for each epoch and class; `selection.safetensors` holds, under the name of
    each student's file, uint8 [epochs, n] over all training images; `start.safetensors` holds `scores` float32 [n],
    by which the first epoch selects.
    """

    produces = "student"
    options: SelectFinetuneOptions

    def consumes(self) -> tuple[tuple[str, ...], ...]:
        """The distilled student, the memory's scores, or both, as `init` and `criterion` ask."""
        kinds = []
        if "distilled" in (self.options.init, self.options.criterion):
            kinds.append(("distilled-student",))
        if self.options.criterion == "memory":
            kinds.append(("memory-scores",))
        return tuple(kinds)

    def check_model(self, name: str, model: type[Model], backbone: Backbone) -> None:  # noqa: ARG002
        """Only a network that reconstructs teacher maps can be trained here."""
        refuse_detector("select-finetune", name, model)

    def sees_confirmations(self) -> bool:
        """Images that a person has judged to be normal are always selected."""
        return True

    def check(self, context: StageContext) -> None:
        """Classes that are too small for the rule are found before hours of work on the others."""
        refuse_small_classes(context, self.options)

    def run(self, context: StageContext) -> None:
        """Fine-tune one student for each partition of the classes."""
        source = context.input("distilled-student", "memory-scores")
        # An evaluation takes the same mean of its own score maps, so that before and after can be compared.
        robust = {"percent": self.options.robust_maximum, "rounding": self.options.rounding}
        context.output.info.update(distance=source.info["distance"], robust_maximum=robust)
        rows: list[dict[str, Any]] = []
        selections: dict[str, Tensor] = {}
        kept_back: list[int] = []
        start = torch.zeros(len(context.data.train))
        for partition in context.partitions:
            student, selection = self._train(context.within(partition), partition, source.info["distance"])
            kept_back += [selection.positions[i] for i in selection.out]
            context.output.write_tensors(student_file(partition), student.state_dict())
            rows += selection.rows
            start[selection.positions] = selection.first
            selections[student_file(partition)] = selection.history()
        context.output.write_json("selection", rows)
        context.output.write_tensors("selection", selections)
        context.output.write_tensors("start", {"scores": start})
        write_held_out(context, kept_back)

    def _train(self, context: StageContext, partition: Partition, distance: Distance) -> tuple[Student, SelfSelection]:
        if self.options.init == "distilled":
            student = load_student(context, context.input("distilled-student"), partition)
        else:
            student = context.new_student(partition.name, "select-finetune")
        positions = partition.positions(context.data.train)
        samples = [context.data.train[i] for i in positions]
        with torch.inference_mode():
            first = self._first_scores(context, partition, positions, samples, distance)
        selection = SelfSelection(self.options, context, partition, positions, first, distance)
        length = selection.length(student)
        checkpoints = Checkpoints(context.work, f"select-finetune-{partition.name}")
        title = f"{context.name} ({partition.name})"
        train(context, student, samples, own_objective(context), selection, length, checkpoints, title)
        selection.settle(student)
        return student, selection

    def _first_scores(
        self,
        context: StageContext,
        partition: Partition,
        positions: Sequence[int],
        samples: Sequence[Sample],
        distance: Distance,
    ) -> Tensor:
        """rmax of the scores that the selection starts from, float32 [n]."""
        if self.options.criterion == "memory":
            maps = context.input("memory-scores").tensors("scores")["maps"][list(positions)]
            return robust_maximum(maps, self.options.robust_maximum, self.options.rounding)
        distilled = load_student(context, context.input("distilled-student"), partition)
        return training_scores(context, distilled, samples, distance, self.options)

    def estimate_seconds(self, context: StageContext) -> float:
        """Iterations times a timed training step, plus the passes that score all images."""
        training = training_seconds(context, self.options, own_objective(context), self.options.holdout)
        return training + scoring_seconds(context, self.options)

    def scorer(self, context: StageContext, artifact: Artifact) -> StudentScorer:
        """Scores with the fine-tuned student."""
        return student_scorer(context, artifact)


class SelfSelection:
    """The epoch plan: scores all images, thresholds them by class, and visits what lies below."""

    def __init__(
        self,
        options: SelectFinetuneOptions,
        context: StageContext,
        partition: Partition,
        positions: Sequence[int],
        first: Tensor,
        distance: Distance,
    ) -> None:
        self.options, self.context, self.partition = options, context, partition
        self.positions = list(positions)
        self.first, self.distance = first, distance
        self.samples = [context.data.train[i] for i in positions]
        self.out = held_out(self.samples, options.holdout, derive_seed(context.seed, partition.name))
        self.confirmed = torch.tensor([sample.confirmed for sample in self.samples])
        self.trainable = torch.ones(len(self.samples), dtype=torch.bool)
        self.trainable[self.out] = False
        self.rule: SelectionRule = context.selection_rule(options.rule)
        self.seed = derive_seed(context.seed, "select-finetune", partition.name)
        self.rows: list[dict[str, Any]] = []
        self.masks: list[Tensor] = []
        self.now = first

    def begin(self, epoch: int, progress: Progress, student: Student) -> Sequence[int]:
        """Select for the epoch that starts now (algorithm 1) and return the visiting order."""
        time = progress.iteration / progress.total
        alpha = min(2.0 * time, 1.0)
        # At iteration 0 no score is needed, so that the first epoch that scores is the second.
        scored = alpha > 0 and (epoch - 1) % self.interval(student) == 0
        scores = self.first
        if alpha > 0:
            if scored:
                self.settle(student)
                self.now = training_scores(self.context, student, self.samples, self.distance, self.options)
            scores = (1.0 - alpha) * self.first + alpha * self.now
        selected = torch.zeros(len(scores), dtype=torch.bool)
        for index in self.partition.class_indices:
            members = torch.tensor([s.class_index == index for s in self.samples])
            factor = self.options.critical_value * time
            threshold = checked_threshold(self.rule, scores[members], factor)
            selected |= members & ((scores < threshold) | self.confirmed)
            facts = {"threshold": threshold, "alpha": alpha, "k": factor, "scored": int(scored)}
            self._note(epoch, progress, index, members, selected, facts)
        self.masks.append(selected)
        return shuffled((selected & self.trainable).nonzero().flatten().tolist(), self.seed, epoch)

    def length(self, student: Student) -> TrainingLength:
        """The length of the training, by the images that are not held out."""
        return stage_length(student, len(self.samples) - len(self.out), self.options)

    def interval(self, student: Student) -> int:
        """Epochs from one pass over all images to the next."""
        return scoring_interval(self.options, int(self.trainable.sum()), self.length(student))

    def settle(self, student: Student) -> None:
        """Settle the student's batch statistics on the images that may be trained on."""
        order = shuffled(self.trainable.nonzero().flatten().tolist(), self.seed, -1)
        samples = [self.samples[i] for i in order]
        settle(self.context, student, samples, self.options, self.length(student).batch_size)

    def _note(
        self,
        epoch: int,
        progress: Progress,
        index: int,
        members: Tensor,
        selected: Tensor,
        facts: Mapping[str, float],
    ) -> None:
        total, kept = int(members.sum()), int((members & selected).sum())
        name = self.context.data.class_names[index]
        to_train_on = int((members & selected & self.trainable).sum())
        if to_train_on < self.options.minimum_selected:
            out = f", and {to_train_on} of them are not held out" if to_train_on < kept else ""
            raise SelectionError(
                f"The selection keeps {kept} of the {total} training images of the class '{name}' at iteration "
                f"{progress.iteration} (scores below {facts['threshold']:.6g}){out}, fewer than `minimum_selected: "
                f"{self.options.minimum_selected}`; the class has too few images or equal scores: add images"
                f"{', lower `holdout`' * bool(out)}, or leave the class out."
            )
        row: dict[str, Any] = {
            "iteration": progress.iteration,
            "epoch": epoch,
            "class": name,
            "selected": kept,
            "total": total,
            **facts,
        }
        self.rows.append(row)
        self.context.emit("epoch", stage=self.context.name, **row)

    def history(self) -> Tensor:
        """uint8 [epochs, n over all training images]: 1 where an image was selected."""
        whole = torch.zeros(len(self.masks), len(self.context.data.train), dtype=torch.uint8)
        whole[:, self.positions] = torch.stack(self.masks).to(torch.uint8)
        return whole

    def state(self) -> dict[str, Tensor]:
        """The rows and masks of the epochs so far, and the last scores."""
        text = json.dumps(self.rows).encode()
        rows = torch.tensor(list(text), dtype=torch.uint8)
        return {"rows": rows, "masks": torch.stack(self.masks), "now": self.now}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the rows, masks and scores."""
        self.rows = json.loads(bytes(state["rows"].tolist()).decode())
        self.masks = list(state["masks"])
        self.now = state["now"]
