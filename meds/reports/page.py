"""Renders a page from a template; everything that comes from a run is escaped."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from meds import __version__
from meds.core import files, heatmaps
from meds.core.units import NOTHING, duration, percent, size


def write_page(template: str, path: Path, **values: Any) -> None:
    """Write a self-contained HTML page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(
        loader=PackageLoader("meds.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    pages.filters.update(percent=percent, figure=figure, file_url=file_url, duration=duration, size=size, plural=plural)
    colours = heatmaps.hex_colours(9)
    files.write_text(path, pages.get_template(template).render(version=__version__, scale_colours=colours, **values))


def figure(value: float | str | None) -> str:
    """A score or a threshold with four digits, a dash where there is none."""
    return NOTHING if value is None else f"{float(value):.4g}"


def plural(count: int, word: str, many: str | None = None) -> str:
    """A number of things: "1 image", "2 images"."""
    return f"{count} {word if count == 1 else many or word + 's'}"


def file_url(path: str) -> str | None:
    """A link to an image file; None for an image that is no file."""
    place = Path(path)
    if not place.is_absolute():
        place = place.absolute()
        if not place.is_file():
            return None
    return f"file://{quote(str(place))}"


def common_folder(paths: Sequence[str]) -> str:
    """The folder, with its slash, that all paths lie in; empty if they share none."""
    folders = {os.path.dirname(path) for path in paths}  # noqa: PTH120 - a name may be no path of this system
    try:
        shared = os.path.commonpath(folders)
    except ValueError:  # no paths, or absolute and relative ones
        return ""
    return f"{shared.rstrip('/')}/" if shared.strip("/") else ""
