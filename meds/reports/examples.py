"""The images of a run that say most about it: what it sees clearest, what it misses, and its false alarms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from meds.core.finished_run import FinishedRun
from meds.reports.opened import table
from meds.reports.pictures import Pair, ReportPictures, Split

SHOWN = 6


@dataclass(frozen=True)
class Example:
    """An image with its map; `verdict` is in words, `pair` is None if the image can no longer be read."""

    path: str
    name: str
    class_name: str
    defect: str | None
    score: float
    threshold: float
    verdict: str
    pair: Pair | None


@dataclass(frozen=True)
class Group:
    """Examples of one kind."""

    title: str
    examples: list[Example]

    @property
    def outlined(self) -> bool:
        """Whether the place of a defect is shown."""
        return any(one.pair is not None and one.pair.outlined for one in self.examples)


@dataclass(frozen=True)
class _Row:
    position: int
    path: str
    class_name: str
    label: str
    score: float
    threshold: float
    decision: str

    @property
    def height(self) -> float:
        """The score as a multiple of its class's threshold, so that classes can be compared."""
        return self.score / self.threshold if self.threshold > 0 else self.score

    @property
    def verdict(self) -> str:
        """What the decision came to."""
        words = {"0": ("normal", "false alarm"), "1": ("missed", "found"), "": ("not anomalous", "anomalous")}
        return words[self.label][self.decision == "anomalous"]


def example_groups(run: FinishedRun, pictures: ReportPictures) -> list[Group]:
    """Up to six images of each kind, from the test images, or from the training images where there are none."""
    rows = [
        _Row(i, row["path"], row["class"], row["label"], float(row["score"]), float(row["threshold"]), row["decision"])
        for i, row in enumerate(table(run, "predictions.csv"))
    ]
    split: Split = "test" if run.data.test else "train"
    kinds: Sequence[tuple[str, Callable[[_Row], bool], bool]] = (
        ("Defects with the highest scores", lambda row: row.label == "1", True),
        ("Defects with the lowest scores", lambda row: row.label == "1", False),
        ("Normal images with the highest scores", lambda row: row.label == "0", True),
        ("Images without a label, with the highest scores", lambda row: row.label == "", True),
        ("Images without a label, with the lowest scores", lambda row: row.label == "", False),
    )
    groups = []
    for title, wanted, highest in kinds:
        found = sorted(filter(wanted, rows), key=lambda row: row.height, reverse=highest)[:SHOWN]
        if found:
            groups.append(Group(title, [_example(run, pictures, split, row) for row in found]))
    return groups


def _example(run: FinishedRun, pictures: ReportPictures, split: Split, row: _Row) -> Example:
    sample = (run.data.test if split == "test" else run.data.train)[row.position]
    return Example(
        row.path,
        PurePath(row.path).name,
        row.class_name,
        sample.record.defect if row.label == "1" else None,
        row.score,
        row.threshold,
        row.verdict,
        pictures.pair(split, row.position, outline=True),
    )
