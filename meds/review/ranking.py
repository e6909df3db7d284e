"""The training images of a run in the order in which a person should look at them, and what is shown of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import urlencode

from meds.core.data import Sample
from meds.core.decisions import Decision
from meds.core.finished_run import FinishedRun
from meds.core.suspicion import most_suspicious_first

Shown = Literal["all", "undecided", "defect", "normal", "unsure"]
SHOWN: tuple[Shown, ...] = get_args(Shown)


@dataclass(frozen=True)
class Item:
    """A training image: its rank (from 1), its position in the run's data, its score, and whether it was selected."""

    rank: int
    position: int
    sample: Sample
    score: float
    selected: bool

    @property
    def digest(self) -> str:
        """sha256 of the image's content."""
        return self.sample.digest

    @property
    def class_name(self) -> str:
        """The image's class."""
        return self.sample.record.class_name

    @property
    def name(self) -> str:
        """The image's path, as the run lists it."""
        return self.sample.record.path


@dataclass(frozen=True)
class Filter:
    """Which images are shown: of one class (all if it is empty), and with what decision."""

    class_name: str = ""
    shown: Shown = "all"

    @property
    def query(self) -> str:
        """The filter as a URL's query, with its question mark; empty for all images."""
        given = {"class": self.class_name, "shown": "" if self.shown == "all" else self.shown}
        text = urlencode({key: value for key, value in given.items() if value})
        return f"?{text}" if text else ""

    def with_shown(self, shown: Shown) -> Filter:
        """The same class with another decision."""
        return Filter(self.class_name, shown)


def ranked(run: FinishedRun) -> tuple[Item, ...]:
    """All training images, most suspicious first, as ranking.csv has them."""
    train = run.data.train
    scores = run.evaluation.tensors("scores")["ranking"].tolist()
    selected = run.evaluation.info["selected"]
    order = most_suspicious_first(scores, [sample.record.class_name for sample in train])
    return tuple(
        Item(rank, position, train[position], scores[position], bool(selected[position]))
        for rank, position in enumerate(order, start=1)
    )


def chosen(items: Sequence[Item], wanted: Filter, standing: Mapping[str, Decision]) -> list[Item]:
    """The items that a filter lets through, in their order."""

    def fits(item: Item) -> bool:
        decision = standing.get(item.digest)
        state = "undecided" if decision is None else decision.decision
        return wanted.class_name in ("", item.class_name) and wanted.shown in ("all", state)

    return [item for item in items if fits(item)]


def before(items: Sequence[Item], rank: int) -> Item | None:
    """The last item above a rank."""
    return next((item for item in reversed(items) if item.rank < rank), None)


def after(items: Sequence[Item], rank: int) -> Item | None:
    """The first item below a rank."""
    return next((item for item in items if item.rank > rank), None)
