"""The drawings of a report, from plain numbers; `figures` gives them their look and puts them into the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from meds.reports.figures import BLACK, BLUE, COLOURS, LINES, MARKERS, VERMILLION, legend_below

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]
FEWEST_BINS, MOST_BINS = 10, 40
# How far lines stand apart at one noise ratio, as a share of the axis, so that their bars do not hide each other.
APART = 0.01
# A robustness curve shows at least so many percentage points, or a difference of nothing would look steep.
FEWEST_POINTS = 5.0


@dataclass(frozen=True)
class ScorePanel:
    """Scores [n] and [m] of two kinds of images, defects second; `threshold` is drawn where there is one."""

    title: str
    others: Floats
    defects: Floats
    threshold: float | None = None


@dataclass(frozen=True)
class SelectionCourse:
    """What was selected of a class at each epoch, arrays [epochs]; counts of images.

    `selected_defects` and `defects` are None where no training image of the class is known to be a defect.
    """

    iteration: Floats
    selected: Floats
    total: int
    threshold: Floats
    selected_defects: Floats | None = None
    defects: int | None = None


@dataclass(frozen=True)
class Line:
    """A line of the robustness curve: for each noise ratio, ascending, the figures of the runs there (of its seeds)."""

    label: str
    points: Mapping[float, Sequence[float]] = field(default_factory=dict)


def bin_edges(others: Floats, defects: Floats, threshold: float | None = None) -> Floats:
    """Edges of about 10 to 40 bins that both groups share, as wide as the first group needs them.

    The width is that of Freedman and Diaconis ("On the histogram as a density estimator", 1981). A threshold between
    the scores becomes an edge, so that no bar lies on both sides of it.
    """
    values = np.concatenate([others, defects])
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.asarray(np.histogram_bin_edges(values, FEWEST_BINS))
    quartiles = np.quantile(others if len(others) else values, [0.25, 0.75])
    width = 2 * float(np.ptp(quartiles)) * max(1, len(others)) ** (-1 / 3)
    count = min(MOST_BINS, max(FEWEST_BINS, round((high - low) / max(width, 1e-12))))
    if threshold is None or not low < threshold < high:
        return np.linspace(low, high, count + 1)
    step = (high - low) / count
    # The lowest and the highest image stay inside when the division comes out a little too small.
    below, above = np.ceil((threshold - low) / step + 1e-9), np.ceil((high - threshold) / step + 1e-9)
    return np.asarray(threshold + step * np.arange(-below, above + 1))


def draw_scores(figure: Figure, panels: Sequence[ScorePanel], names: tuple[str, str]) -> None:
    """Histograms side by side; the defects are hatched and dashed, so that grey print tells them apart."""
    rooms = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, panel in zip(rooms, panels, strict=True):
        edges = bin_edges(panel.others, panel.defects, panel.threshold)
        counts = np.histogram(panel.others, edges)[0]
        axes.stairs(counts, edges, fill=True, color=BLUE, alpha=0.35)
        axes.stairs(counts, edges, color=BLUE, linewidth=1.4, label=names[0])
        if len(panel.defects):
            counts = np.histogram(panel.defects, edges)[0]
            axes.stairs(counts, edges, fill=True, color="none", edgecolor=VERMILLION, hatch="////", linewidth=0)
            axes.stairs(counts, edges, color=VERMILLION, linestyle="--", linewidth=1.6, label=names[1])
        if panel.threshold is not None:
            axes.axvline(panel.threshold, color=BLACK, linestyle="-.", linewidth=1.3, label="threshold")
        axes.set(title=panel.title, xlabel="image score (no unit)", ylabel="number of images")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.grid(visible=False, axis="x")
    legend_below(figure, rooms[0], columns=3)


def draw_selection(figure: Figure, course: SelectionCourse) -> None:
    """The selected share, and below it the threshold, over the iterations."""
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    every = max(1, len(course.iteration) // 8)
    if course.selected_defects is None or not course.defects:
        _course(above, course, course.selected / course.total, "all images", 0, every)
    else:
        others = (course.selected - course.selected_defects) / max(1, course.total - course.defects)
        _course(above, course, others, "images not known to be defects", 0, every)
        _course(above, course, course.selected_defects / course.defects, "known defects", 1, every)
    above.set(title="What the student selects", ylabel="selected (%)", ylim=(-3, 103))
    below.plot(course.iteration, course.threshold, color=BLACK, linewidth=1.5)
    below.set(title="Threshold of the selection", ylabel="score\n(no unit)", xlabel="iteration")
    legend_below(figure, above)


def _course(axes: Axes, course: SelectionCourse, shares: Floats, label: str, style: int, every: int) -> None:
    look: dict[str, Any] = {"color": COLOURS[style], "linestyle": LINES[style], "marker": MARKERS[style]}
    axes.plot(course.iteration, 100 * shares, label=label, markevery=every, markersize=4.5, **look)


def precision_recall(scores: Floats, defects: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Recall and precision after every distinct score of a ranking [n], from the most suspicious image down."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(defects, scores)
    return recall[::-1], precision[::-1]


def draw_precision_recall(figure: Figure, recall: Floats, precision: Floats, share: float) -> None:
    """The curve of a ranking, and what a random order with this share of defects would have."""
    axes = figure.subplots()
    axes.step(100 * recall, 100 * precision, where="pre", color=BLUE, linewidth=1.8, label="this ranking")
    axes.axhline(100 * share, color=BLACK, linestyle=":", linewidth=1.4, label="random order")
    axes.set(
        title="Ranking of the training images",
        xlabel="recall: known defects that are found (%)",
        ylabel="precision: known defects\namong the images looked at (%)",
        xlim=(-2, 102),
        ylim=(-3, 103),
    )
    legend_below(figure, axes)


def draw_robustness(figure: Figure, lines: Sequence[Line], title: str, unit: str) -> None:
    """Means over the seeds against the noise ratio, with bars from the lowest to the highest, a little apart."""
    axes = figure.subplots()
    every = [ratio for line in lines for ratio in line.points]
    step = APART * (max(every) - min(every))
    for place, line in enumerate(lines):
        ratios = sorted(line.points)
        runs = [line.points[ratio] for ratio in ratios]
        means = np.array([np.mean(values) for values in runs])
        spread = np.array([[mean - min(v), max(v) - mean] for mean, v in zip(means, runs, strict=True)]).T
        axes.errorbar(
            100 * (np.array(ratios) + step * (place - (len(lines) - 1) / 2)),
            100 * means,
            yerr=100 * np.clip(spread, 0, None),
            label=line.label,
            color=COLOURS[place % len(COLOURS)],
            linestyle=LINES[place % len(LINES)],
            marker=MARKERS[(place + place // len(MARKERS)) % len(MARKERS)],
            capsize=3,
            linewidth=1.6,
        )
    low, high = axes.get_ylim()
    if high - low < FEWEST_POINTS:
        middle = (low + high) / 2
        axes.set_ylim(middle - FEWEST_POINTS / 2, middle + FEWEST_POINTS / 2)
    axes.set(title=title, xlabel="known defects per normal training image (%)", ylabel=unit)
    legend_below(figure, axes)
