"""What keeps the figures of several runs from being compared, in sentences."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from meds.comparison.measured import Measured
from meds.core.metric_names import NO_PIXELS, NO_TEST

OTHER_DATA = (
    "The runs were made on different images or parts of them (`dataset`): their figures cannot be compared with each "
    "other."
)
_OTHER_TESTS = "Not all rows of one seed are measured on the same test images"
_OTHER_TRAINING = (
    "Not all rows of one seed and noise ratio are trained on the same images: give their specs the same `noise`, its "
    "`seed` too."
)


def caveats(rows: Sequence[Measured]) -> list[str]:
    """A sentence for everything that keeps some of the rows from being compared; none where nothing does.

    Images are compared among rows of one data set: those whose resolved blocks `dataset` are equal.
    """
    return [
        *([OTHER_DATA] if len({row.dataset for row in rows}) > 1 else []),
        *_without(rows, lambda row: row.not_in_means, "mean", NO_TEST),
        *_without(rows, lambda row: row.not_in_pixel_means, "mean of pixel figures", NO_PIXELS),
        *_different_tests(rows),
        *([_OTHER_TRAINING] if _differ(rows, _alike, lambda row: row.training_images) else []),
        *_leaked(rows),
    ]


def _without(rows: Sequence[Measured], lacking: Callable[[Measured], list[str]], what: str, reason: str) -> list[str]:
    """A sentence if means are means of fewer classes than there are."""
    names = sorted({name for row in rows for name in lacking(row)})
    if not names:
        return []
    every = all(sorted(lacking(row)) == names for row in rows)
    start = f"The {what} is" if every else f"Some {what.replace('mean', 'means', 1)} are"
    return [f"{start} without {', '.join(names)}: {reason}."]


def _different_tests(rows: Sequence[Measured]) -> list[str]:
    """A sentence if rows of one data set and seed are measured on different test images."""
    if _differ(rows, _alike, lambda row: row.test_images):
        return [f"{_OTHER_TESTS}: give their specs the same `noise` (`overlap: false` takes injected ones out)."]
    if _differ(rows, lambda row: (row.dataset, row.seed), lambda row: row.test_images):
        taken = "(with `overlap: false` the injected ones are taken out)"
        return [f"{_OTHER_TESTS} {taken}: compare those of one noise ratio."]
    return []


def _leaked(rows: Sequence[Measured]) -> list[str]:
    """A sentence if test images are training images too and the noise protocol did not put them there."""
    counts = sorted({row.leaked for row in rows})
    if not counts[-1]:
        return []
    number = f"{counts[-1]}" if len(counts) == 1 else f"up to {counts[-1]}"
    return [
        f"Test images that are training images too, not by the noise but in the data set: {number}. The figures say "
        "less of new images."
    ]


def _alike(row: Measured) -> Hashable:
    """What rows that may be compared in everything have in common; ratios differ by the rounding of a count."""
    return row.dataset, row.seed, round(row.noise or 0.0, 4)


def _differ(
    rows: Sequence[Measured], group: Callable[[Measured], Hashable], image_digest: Callable[[Measured], str]
) -> bool:
    """Whether rows of one group have different images."""
    return len({(group(row), image_digest(row)) for row in rows}) > len({group(row) for row in rows})
