"""Figures, durations and sizes in words that fit a line."""

from __future__ import annotations

NOTHING = "–"


def percent(value: float | None) -> str:
    """A fraction as percent, a dash where it is undefined."""
    return NOTHING if value is None else f"{100 * value:.1f}"


def duration(seconds: float) -> str:
    """A duration: "8 s", "3 min 20 s", "1 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: float) -> str:
    """A number of bytes: "12 MiB"."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
