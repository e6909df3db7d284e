"""Figures in words that fit a line."""

from __future__ import annotations


def percent(value: float | None) -> str:
    """A fraction as percent with one digit, a dash where it is undefined."""
    return "–" if value is None else f"{100 * value:.1f}"
