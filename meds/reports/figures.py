"""The look of all figures, and how one becomes inline SVG: read aloud, printed, and told apart without colours."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, "Color universal design" (2008). Red and green never stand for a pair of opposites.
BLUE, VERMILLION, BLACK = "#0072B2", "#D55E00", "#000000"
COLOURS = (BLUE, VERMILLION, BLACK, "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P")
INK, FAINT = "#333333", "#DDDDDD"

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "hatch.linewidth": 0.8,
    # Text stays text, so that it can be searched and read aloud; a dollar sign in a name is no formula.
    "svg.fonttype": "none",
    "svg.hashsalt": "meds",
    "text.parse_math": False,
}
# Inches. In print two figures stand side by side, and letters of 9 points become just under 7.
WIDTH, WIDE = 4.8, 9.8


@dataclass(frozen=True)
class PageFigure:
    """A figure in a page: inline SVG, and a sentence below it."""

    svg: Markup
    caption: str


def page_figure(
    draw: Callable[[Figure], None],
    key: str,
    title: str,
    description: str,
    caption: str,
    height: float,
    wide: bool = False,
) -> PageFigure:
    """Draw a figure, `height` inches high, and make it part of a page; `wide` is as wide as two others.

    `key` is letters, digits and dashes, and differs for all figures of a page. `title` and `description` are the text
    alternative: what is shown, and what it shows in numbers.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE), warnings.catch_warnings():
        # The browser has the letters that matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(WIDE if wide else WIDTH, height), layout="constrained")
        draw(figure)
        target = io.StringIO()
        figure.savefig(target, format="svg", metadata={"Date": None})
    return PageFigure(_inline(target.getvalue(), key, title, description), caption)


def _inline(text: str, key: str, title: str, description: str) -> Markup:
    """matplotlib's SVG file as an element of a page that may hold others: ids of its own, no address of anywhere."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{key}-", text)
    view = re.search(r'viewBox="([\d. -]+)"', text)
    assert view is not None  # matplotlib always writes it
    # Its font list comes from this machine; the page's own letters look the same everywhere.
    body = re.sub(
        r"font: ([\w ]*?)([\d.]+px) [^;\"]*", r"font: \1\2 system-ui, sans-serif", text[text.index(">") + 1 :]
    )
    opening = (
        f'<svg role="img" viewBox="{view[1]}" aria-labelledby="{key}-title {key}-desc">'
        f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-desc">{escape(description)}</desc>'
    )
    return Markup(opening + body)


def legend_below(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """The legend under the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower left", ncols=columns, handlelength=3)
