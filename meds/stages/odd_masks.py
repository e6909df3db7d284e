"""Says which masks of test images are missing, empty or cover everything, before pixel figures are believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meds.core.data import Sample
from meds.core.stage import StageContext


def say_unmasked(context: StageContext, class_name: str, samples: Sequence[Sample]) -> None:
    """Say how many defective images pixel figures leave out, where some have a mask."""
    defects = [sample for sample in samples if sample.record.label == 1]
    without = [sample for sample in defects if sample.record.mask is None]
    if 0 < len(without) < len(defects):
        context.reporter.say(
            f"{len(without)} of the {len(defects)} defective test images of the class '{class_name}' have no mask, and "
            f"pixel figures are without them; the first is {without[0].record.path}."
        )


def say_odd_masks(context: StageContext, covered: Mapping[str, float]) -> None:
    """Name the masks of defective images that cover nothing or everything; `covered` is the share of each, 0 to 1."""
    background = "if that is not meant (a white background, a mask in the alpha channel), save them as white on black"
    for share, text in (
        (0, "hold no defect, and their pixels count as normal"),
        (1, f"cover all of their image; {background}"),
    ):
        odd = [path for path, found in covered.items() if found == share]
        if odd:
            context.reporter.say(f"{len(odd)} of the defective images' masks {text}; the first is {odd[0]}.")


def say_vanished_masks(context: StageContext, vanished: Sequence[str], count: int, mask_rule: str) -> None:
    """Name those of `count` masks of which nothing is left at the size of the anomaly maps."""
    if vanished:
        advice = " (`mask_rule: any` of `evaluate` keeps what is merely small)" if mask_rule == "half" else ""
        context.reporter.say(
            f"Of {len(vanished)} of the {count} masks of defects nothing is left once they are resized and cut as the "
            f"encoder's images are, and those defects count as normal pixels{advice}; the first is {vanished[0]}."
        )
