"""One person's review of a run: what has been decided by anybody, deciding, taking back, and how much is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meds.core.contamination_estimate import Expected, estimate_contamination
from meds.core.data import class_indices
from meds.core.decision_table import append_decision, mended_decisions
from meds.core.decisions import Decision, Verdict, decided_now, standing
from meds.core.errors import DataError
from meds.core.finished_run import FinishedRun
from meds.review.ranking import Filter, Item, after, chosen, ranked


@dataclass(frozen=True)
class ReviewProgress:
    """How far a review is: numbers of images, and the defects expected among those that nobody has judged yet.

    `left` is None where no class has enough images for an estimate; `earlier` counts decisions about images that are
    not (or no longer) among the run's training images.
    """

    total: int
    defect: int
    normal: int
    unsure: int
    left: Expected | None
    earlier: int

    @property
    def judged(self) -> int:
        """Images that somebody has judged, "unsure" among them."""
        return self.defect + self.normal + self.unsure


@dataclass(frozen=True)
class _Table:
    """The table as it was when the file had this state."""

    state: tuple[int, ...]
    rows: list[Decision]
    standing: dict[str, Decision]


class Journal:
    """The table of decisions, read again whenever this or another process has written to it.

    DataError from anything here: somebody has written into it what cannot be understood.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last = _Table((), [], {})

    def rows(self) -> list[Decision]:
        """All decisions in their order."""
        return self._now().rows

    def standing(self) -> Mapping[str, Decision]:
        """The decision that stands about every image, by sha256."""
        return self._now().standing

    def add(self, decision: Decision) -> None:
        """Write a decision; it is on the disk when this returns."""
        self._now()
        append_decision(self.path, decision)

    def _now(self) -> _Table:
        # Several threads may read at once; each gives whole tables, so that it does not matter which is kept.
        state, last = self._state(), self._last
        if not self.path.parent.is_dir():
            raise DataError(f"{self.path.parent}: the folder is not there any more; open the review where it is now.")
        if last.rows and not state:
            raise DataError(
                f"{self.path}: the decisions are not there any more; bring the table back, or open the review again to "
                "begin a new one."
            )
        if state != last.state:
            rows = mended_decisions(self.path)
            self._last = last = _Table(state, rows, standing(rows))
        return last

    def _state(self) -> tuple[int, ...]:
        try:
            state = self.path.stat()
        except FileNotFoundError:
            return ()
        return state.st_ino, state.st_size, state.st_mtime_ns


class Review:
    """The images of a finished run, judged by `who` and by others who write to the same table."""

    def __init__(self, run: FinishedRun, decisions: Path, who: str) -> None:
        self.run, self.who = run, who
        self.journal = Journal(decisions)
        self.items = ranked(run)
        self.by_digest = {item.digest: item for item in reversed(self.items)}
        self.class_names = run.data.class_names
        self._estimate = estimate_contamination(
            [item.score for item in self.items], class_indices([item.sample for item in self.items])
        )

    def standing(self) -> Mapping[str, Decision]:
        """The decision that stands about every image, by sha256."""
        return self.journal.standing()

    def decide(self, digest: str, verdict: Verdict) -> Item:
        """Write what this person thinks of an image; KeyError if it is none of the run's training images."""
        item = self.by_digest[digest]
        last = self.standing().get(digest)
        if last is None or (last.decision, last.who) != (verdict, self.who):
            self.journal.add(decided_now(item.sample, verdict, self.who))
        return item

    def undo(self, digest: str | None = None) -> Item | None:
        """Take back this person's decision about an image if it stands, else the last one that this person made.

        Returns the image, None if there is nothing to take back. Decisions of others are never taken back.
        """
        rows = self.journal.rows()
        own = self._own(rows)
        if not own:
            return None
        last = self.standing().get(digest or "")
        target = digest if digest in own and last is not None and last.who == self.who else own[-1]
        item = self.by_digest[target or ""]
        self.journal.add(decided_now(item.sample, "undone", self.who))
        return item

    def next_after(self, item: Item, wanted: Filter) -> Item | None:
        """Where to go after a decision: to the next image that nobody has judged, from the top again at the end.

        In a list of judged images, to the next of the list.
        """
        if wanted.shown not in ("all", "undecided"):
            return after(chosen(self.items, wanted, self.standing()), item.rank)
        left = chosen(self.items, wanted.with_shown("undecided"), self.standing())
        return after(left, item.rank) or next(iter(left), None)

    def first_undecided(self, class_name: str = "") -> Item | None:
        """Where to go on: the most suspicious image that nobody has judged."""
        return next(iter(chosen(self.items, Filter(class_name, "undecided"), self.standing())), None)

    def progress(self) -> ReviewProgress:
        """How far all reviewers together are."""
        decisions = self.standing()
        counts = Counter(decisions[item.digest].decision for item in self.items if item.digest in decisions)
        unjudged = np.array([item.digest not in decisions for item in self.items], dtype=bool)
        return ReviewProgress(
            total=len(self.items),
            defect=counts["defect"],
            normal=counts["normal"],
            unsure=counts["unsure"],
            left=self._estimate.expected(unjudged),
            earlier=len(decisions.keys() - self.by_digest.keys()),
        )

    def _own(self, rows: list[Decision]) -> list[str]:
        """sha256 of the images of this run that this person has decided about and not taken back, in that order."""
        own: list[str] = []
        for row in rows:
            if row.who != self.who or row.sha256 not in self.by_digest:
                continue
            if row.decision != "undone":
                own.append(row.sha256)
            elif row.sha256 in own:
                del own[len(own) - 1 - own[::-1].index(row.sha256)]
        return own
