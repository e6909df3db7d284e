"""Where what a command does is told: progress bars and single sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class ProgressBar(Protocol):
    """A running progress display."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move on; `note` is a short text such as the loss."""


class Reporter(Protocol):
    """Where a stage tells of its progress; the command line renders it."""

    def bar(self, title: str, total: int) -> AbstractContextManager[ProgressBar]:
        """A progress bar for `total` steps."""

    def say(self, text: str) -> None:
        """One sentence for the user."""


class _SilentBar:
    def advance(self, steps: int = 1, note: str = "") -> None:
        """Show nothing."""


class SilentReporter:
    """A reporter for scripts and tests: shows nothing, keeps the sentences."""

    def __init__(self) -> None:
        self.said: list[str] = []

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[ProgressBar]:  # noqa: ARG002
        """A bar that shows nothing."""
        yield _SilentBar()

    def say(self, text: str) -> None:
        """Keep the sentence."""
        self.said.append(text)
