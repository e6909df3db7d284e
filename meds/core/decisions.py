"""What people have decided about images: who has the last word, and what it does to a run's data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from meds.core.data import RunData, Sample, check_classes, with_shared
from meds.core.dataset import ANOMALOUS, NORMAL

Verdict = Literal["defect", "normal", "unsure", "undone"]


@dataclass(frozen=True)
class Decision:
    """One row: an image, what was decided, by whom and when (ISO 8601, UTC). For "undone" see `standing`."""

    path: str
    sha256: str
    decision: Verdict
    who: str
    when: str


def decided_now(sample: Sample, decision: Verdict, who: str) -> Decision:
    """A decision about an image of a run, made at this moment."""
    return Decision(sample.record.path, sample.digest, decision, who, datetime.now(UTC).isoformat(timespec="seconds"))


def standing(decisions: Sequence[Decision]) -> dict[str, Decision]:
    """The decision that stands about every image, by its sha256: the last one that was not taken back.

    "undone" takes back the last decision about the image by the same person (the last by anybody if that person has
    made none), so that what somebody else has decided before stands again.
    """
    history: dict[str, list[Decision]] = {}
    for decision in decisions:
        past = history.setdefault(decision.sha256, [])
        if decision.decision != "undone":
            past.append(decision)
        elif past:
            own = [place for place, earlier in enumerate(past) if earlier.who == decision.who]
            del past[own[-1] if own else -1]
    return {digest: past[-1] for digest, past in history.items() if past}


def apply_decisions(data: RunData, decisions: Mapping[str, Decision], defects_to_test: bool) -> RunData:
    """Confirmed defects leave the training images, confirmed normal images are marked.

    `defects_to_test` puts the defects among the test images, as anomalous ones, with the mask that they have. The noise
    report gets a block `decisions`: what was removed, confirmed, and which defects are left; and
    `decisions_elsewhere`, how many decisions are about none of the training images.
    """
    kept, dropped = [], []
    for sample in data.train:
        decision = decisions.get(sample.digest)
        if decision is not None and decision.decision == "defect":
            dropped.append(sample)
        else:
            kept.append(replace(sample, confirmed=decision is not None and decision.decision == "normal"))
    check_classes(data.class_names, [sample.record for sample in kept])
    test = list(data.test)
    if defects_to_test:
        known = {sample.digest for sample in test}
        fresh = {sample.digest: sample for sample in dropped if sample.digest not in known}
        test += map(_as_test_image, fresh.values())
    noise = with_shared(_noise_after(data, kept, dropped), kept, test)
    noise["decisions_elsewhere"] = len(decisions.keys() - {sample.digest for sample in data.train})
    return replace(data, train=tuple(kept), test=tuple(test), noise=noise)


def _as_test_image(sample: Sample) -> Sample:
    record = sample.record
    # The type of defect of a known normal image is "good".
    defect = None if record.label == NORMAL else record.defect
    moved = replace(record, split="test", label=ANOMALOUS, defect=defect)
    return replace(sample, record=moved, injected=False, confirmed=False)


def _noise_after(data: RunData, kept: Sequence[Sample], dropped: Sequence[Sample]) -> dict[str, object]:
    noise = dict(data.noise)
    left = Counter(sample.record.class_name for sample in kept if sample.injected)
    gone = Counter(sample.record.class_name for sample in dropped)
    sure = Counter(sample.record.class_name for sample in kept if sample.confirmed)
    noise["decisions"] = {
        name: {"defects_removed": gone[name], "normals_confirmed": sure[name], "known_defects_left": left[name]}
        for name in data.class_names
    }
    return noise
