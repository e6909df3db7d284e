"""Renders a page from a template; everything that comes from a run is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from meds import __version__
from meds.core import files


def write_page(template: str, path: Path, **values: Any) -> None:
    """Write a self-contained HTML page."""
    from jinja2 import Environment, PackageLoader

    pages = Environment(loader=PackageLoader("meds.reports"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.filters["percent"] = percent
    pages.filters["file_url"] = file_url
    files.write_text(path, pages.get_template(template).render(version=__version__, **values))


def percent(value: float | None) -> str:
    """A fraction as percent with one digit, a dash where it is undefined."""
    return "–" if value is None else f"{100 * value:.1f}"


def file_url(path: str) -> str | None:
    """A link to an image file; None for an image that is no file."""
    place = Path(path)
    return f"file://{quote(str(place))}" if place.is_absolute() else None
