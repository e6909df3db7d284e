"""The pass over all training images that a selection is made by: scores, batch statistics, and what the pass costs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from meds.core.data import Sample
from meds.core.epochs import TrainingLength, stage_length
from meds.core.reconstruct import reconstruct
from meds.core.scoring import Distance, score_map
from meds.core.selection import robust_maximum
from meds.core.stage import Partition, StageContext
from meds.core.student import Student
from meds.core.timing import probes, seconds_of
from meds.core.workload import interval_of_enough_passes, scoring_passes
from meds.stages.batch_statistics import LARGEST_NUMBER_OF_BATCHES, estimate_batch_statistics, has_batch_statistics
from meds.stages.options import SelectFinetuneOptions

# The fastest on a processor: with 16 images a pass of Reverse Distillation takes 1.1 times, with 64 1.1 times as long.
SCORING_BATCH = 32


def training_scores(
    context: StageContext,
    student: Student,
    samples: Sequence[Sample],
    distance: Distance,
    options: SelectFinetuneOptions,
) -> Tensor:
    """rmax s_theta of the samples in evaluation mode, float32 [n] on the CPU."""
    student.eval()
    scores = []
    with torch.inference_mode():
        batches = (samples[i : i + SCORING_BATCH] for i in range(0, len(samples), SCORING_BATCH))
        for chosen, features in context.read_batches(batches):
            targets, outputs = reconstruct(context.runtime, student, features, context.class_tensor(chosen))
            maps = score_map(targets, outputs, distance)
            scores.append(robust_maximum(maps, options.robust_maximum, options.rounding).cpu())
    return torch.cat(scores)


def settle(
    context: StageContext, student: Student, samples: Sequence[Sample], options: SelectFinetuneOptions, batch_size: int
) -> None:
    """Estimate running statistics of batch normalisation over `samples`, whatever is selected of them.

    A selection gives all images but those that are held out, which must not tell the student anything.

    Statistics of selected images alone make an image of a kind that is not among them, normal as it may be, look
    worse than a defect; it is then never selected again, and its whole kind drops out one by one.
    """
    if options.batch_statistics == "all" and has_batch_statistics(student):
        estimate_batch_statistics(context, student, samples, batch_size)


def scoring_interval(options: SelectFinetuneOptions, images: int, length: TrainingLength) -> int:
    """Epochs from one scoring pass to the next in a training of such a length on some of `images`."""
    return options.scoring_interval or interval_of_enough_passes(
        images, length.batch_size, length.iterations, options.critical_value
    )


def scoring_seconds(context: StageContext, options: SelectFinetuneOptions) -> float:
    """Seconds of all passes of a fine-tuning over all partitions: their number times what one should take."""
    student = context.new_student("estimate")
    few = probes(context, SCORING_BATCH)
    each = seconds_of(lambda: training_scores(context, student, few, "cosine", options)) / SCORING_BATCH
    total = 0.0
    for partition in context.partitions:
        images = len(partition.positions(context.data.train))
        trainable = max(1, round((1 - options.holdout) * images))
        length = stage_length(student, trainable, options)
        settling = _settling_seconds(context, student, partition, options, length.batch_size)
        interval = scoring_interval(options, trainable, length)
        passes = scoring_passes(trainable, length.batch_size, length.iterations, options.critical_value, interval)
        # The distilled student scores once before the first epoch, and the statistics are settled at the end.
        total += (passes + 1) * (images * each + settling)
    return total


def _settling_seconds(
    context: StageContext, student: Student, partition: Partition, options: SelectFinetuneOptions, batch_size: int
) -> float:
    few = probes(context, batch_size)
    batches = min(len(partition.positions(context.data.train)) // batch_size, LARGEST_NUMBER_OF_BATCHES)
    return batches * seconds_of(lambda: settle(context, student, few, options, batch_size))
