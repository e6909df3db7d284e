"""What folders of images are usually called."""

from __future__ import annotations

NORMAL_NAMES = frozenset({"normal", "good", "ok", "io", "pass", "passed"})
ABNORMAL_NAMES = frozenset(
    {
        "abnormal",
        "anomaly",
        "anomalous",
        "anomalies",
        "defect",
        "defective",
        "defects",
        "bad",
        "ko",
        "nok",
        "ng",
        "nio",
        "fail",
        "failed",
        "faulty",
        "reject",
        "rejects",
        "rejected",
    }
)
MASK_NAMES = frozenset({"mask", "masks", "ground_truth", "groundtruth", "gt"})
