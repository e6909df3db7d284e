"""What folders of images are usually called."""

from __future__ import annotations

import re

NORMAL_NAMES = frozenset(
    {
        "normal",
        "good",
        "ok",
        "io",
        "pass",
        "passed",
        "nodefect",
        "nodefects",
        "nondefect",
        "nondefective",
        "defectfree",
        "faultfree",
        "flawless",
        "undamaged",
        "gut",
    }
)
ABNORMAL_NAMES = frozenset(
    {
        "abnormal",
        "anomaly",
        "anomalous",
        "anomalies",
        "defect",
        "defective",
        "defects",
        "def",
        "bad",
        "ko",
        "nok",
        "ng",
        "nio",
        "fail",
        "failed",
        "faulty",
        "damaged",
        "reject",
        "rejects",
        "rejected",
        "schlecht",
    }
)
MASK_NAMES = frozenset({"mask", "masks", "ground_truth", "groundtruth", "gt"})
LABEL_NAMES = frozenset({"label", "labels"})
IMAGE_NAMES = frozenset({"image", "images", "img", "imgs"})
_BETWEEN_WORDS = re.compile(r"[\W_]+")


def is_called(name: str, names: frozenset[str]) -> bool:
    """Whether a folder's name is one of the names, capitals and signs between words aside: `n.i.O.`, `No_Defect`."""
    return _BETWEEN_WORDS.sub("", name).lower() in names


def begins_with(name: str, names: frozenset[str]) -> bool:
    """Whether the first word of a folder's name is one of the names: `ok_front`, `Defect images`."""
    return _BETWEEN_WORDS.split(name.lower())[0] in names
