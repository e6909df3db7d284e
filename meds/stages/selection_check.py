"""What a selection refuses before hours of work: classes that leave it too few images to train on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from meds.core.calibration import held_out
from meds.core.data import Sample
from meds.core.errors import SelectionError
from meds.core.seeds import derive_seed
from meds.core.selection import SelectionRule
from meds.core.stage import StageContext
from meds.stages.options import SelectFinetuneOptions


def refuse_small_classes(context: StageContext, options: SelectFinetuneOptions) -> None:
    """SelectionError for the first class of which too few images would be selected at the start and trained on.

    Which images those are, nobody knows yet: of the images that are not held out, the share that the rule keeps at
    first is expected to be among them, and with it every one that a person has judged to be normal.
    """
    rule: SelectionRule = context.selection_rule(options.rule)
    for partition in context.partitions:
        samples = [context.data.train[i] for i in partition.positions(context.data.train)]
        out = set(held_out(samples, options.holdout, derive_seed(context.seed, partition.name)))
        for index in partition.class_indices:
            members = [i for i, sample in enumerate(samples) if sample.class_index == index]
            left = [samples[i] for i in members if i not in out]
            name = context.data.class_names[index]
            _check_class(name, [samples[i] for i in members], left, rule, options)


def _check_class(
    name: str, members: Sequence[Sample], left: Sequence[Sample], rule: SelectionRule, options: SelectFinetuneOptions
) -> None:
    """`left` are those of a class's images that are not held out."""
    count, at_first = len(members), rule.kept_at_first(len(members))
    kept = min(count, at_first + sum(sample.confirmed for sample in members))
    share = at_first * len(left) / count if count else 0.0
    expected = min(len(left), share + sum(sample.confirmed for sample in left))
    minimum = f"fewer than `minimum_selected: {options.minimum_selected}`"
    if kept < options.minimum_selected:
        raise SelectionError(
            f"The class '{name}' has {count} training images, of which the selection would keep {kept} at first, "
            f"{minimum}: add images, or leave the class out."
        )
    if expected < options.minimum_selected:
        # Rounded down, or the sentence would say that 2 are fewer than 2.
        about = f"{math.floor(10 * expected) / 10:g}"
        raise SelectionError(
            f"The class '{name}' has {count} training images, of which `holdout: {options.holdout:g}` leaves "
            f"{len(left)} to train on, and the selection would keep about {about} of these at first, {minimum}: lower "
            "`holdout`, add images, or leave the class out."
        )
