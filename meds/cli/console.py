"""Renders progress and sentences: rich bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from meds.core.units import duration as duration
from meds.core.units import size as size

if TYPE_CHECKING:
    from meds.core.reporter import ProgressBar

PLAIN_INTERVAL_SECONDS = 10.0

# No markup: names of classes, files and options may hold brackets.
console = Console(highlight=False, markup=False)


class _RichBar:
    def __init__(self, progress: Progress, title: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total, note="")

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move the bar."""
        self._progress.update(self._task, advance=steps, note=note)


class _PlainBar:
    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._done, self._skipped = title, total, 0, 0
        self._start = self._said = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Print a line every few seconds, with the time left."""
        if self._done == 0 and steps > 1 and time.monotonic() - self._start < 0.05:
            self._skipped = steps
        self._done += steps
        now = time.monotonic()
        if now - self._said < PLAIN_INTERVAL_SECONDS:
            return
        self._said = now
        fresh = max(1, self._done - self._skipped)
        left = (now - self._start) / fresh * (self._total - self._done)
        detail = f", {note}" if note else ""
        console.print(f"  {self._title}: {self._done}/{self._total}{detail}, about {duration(left)} left")

    def finish(self) -> None:
        """Print a last line if the work took more than a moment."""
        taken = time.monotonic() - self._start
        if taken > 2.0:
            console.print(f"  {self._title}: {self._done}/{self._total} in {duration(taken)}")


class ConsoleReporter:
    """Shows a run's progress in the terminal."""

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[ProgressBar]:
        """A progress bar, or plain lines where the output is not a terminal."""
        if not console.is_terminal:
            plain = _PlainBar(title, total)
            yield plain
            plain.finish()
            return
        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=console) as progress:
            yield _RichBar(progress, title, total)

    def say(self, text: str) -> None:
        """Print a sentence."""
        console.print(text, soft_wrap=True)


def say_heading(name: str, rest: str = "") -> None:
    """Print a line that begins with a name in bold."""
    console.print(Text.assemble((name, "bold"), rest))


def new_table(*columns: str, title: str | None = None, numbers: Sequence[str] = ()) -> Table:
    """An empty table in the house style; columns named in `numbers` are set flush right; only the last wraps."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for column in columns:
        side: Literal["left", "right"] = "right" if column in numbers else "left"
        table.add_column(column, justify=side, no_wrap=column != columns[-1])
    return table
