"""What a selection refuses before hours of work: classes that leave it too few images to train on."""

from __future__ import annotations

from collections.abc import Sequence

from meds.core.calibration import held_out
from meds.core.data import Sample
from meds.core.errors import SelectionError
from meds.core.seeds import derive_seed
from meds.core.selection import SelectionRule
from meds.core.stage import StageContext
from meds.stages.options import SelectFinetuneOptions


def refuse_small_classes(context: StageContext, options: SelectFinetuneOptions) -> None:
    """SelectionError for the first class of which too few images can be selected at the start, or trained on."""
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
    minimum = f"fewer than `minimum_selected: {options.minimum_selected}`"
    if kept < options.minimum_selected:
        raise SelectionError(
            f"The class '{name}' has {count} training images, of which the selection would keep {kept} at first, "
            f"{minimum}: add images, or leave the class out."
        )
    if len(left) < options.minimum_selected:
        raise SelectionError(
            f"The class '{name}' has {count} training images, of which `holdout: {options.holdout:g}` leaves "
            f"{len(left)} to train on, {minimum}: lower `holdout`, add images, or leave the class out."
        )
