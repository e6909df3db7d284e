"""Several runs side by side: a row each, the lines of the robustness curve, and what tells them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean
from typing import Any

from meds.comparison.caveats import caveats
from meds.comparison.measured import Measured, ends, mean_figures, measured, own_fields
from meds.comparison.methods import METHODS, method_of
from meds.core.finished_run import FinishedRun
from meds.core.metric_names import METRIC_NAMES
from meds.core.units import percent
from meds.reports.charts import Line, draw_robustness
from meds.reports.facts import in_line
from meds.reports.figures import PageFigure, page_figure
from meds.reports.page import plural

Protocol = tuple[tuple[str, str], ...]
# What may differ between runs of one line of the robustness curve.
_FREE = {"name", "seed", "noise", "device", "threads", "loggers"}
_NO_CURVE = "No two runs of one line differ in their noise ratio, so there is no robustness curve."
_MEASURED = ("image_auroc", "pixel_aupro", "ranking_auprc")
RANKING = {
    "ranking_auprc": "ranking AUPRC",
    "ranking_inspection_depth": "inspection depth",
    "injected_selected": "known defects among selected",
}


@dataclass(frozen=True)
class RunRow(Measured):
    """One run: `setting` is what it shares with those of its line, `protocol` how noise was added (None without)."""

    setting: Mapping[str, Any]
    protocol: Protocol | None


@dataclass(frozen=True)
class Means:
    """A line's runs at one noise ratio: how many, means of their figures, the lowest and highest image AUROC."""

    label: str
    noise: float
    runs: int
    figures: Mapping[str, float | None]
    lowest: float | None
    highest: float | None


@dataclass(frozen=True)
class Comparison:
    """Everything that is said of several runs together; `labels` has a label for each of `rows`."""

    rows: list[RunRow]
    labels: list[str]
    titles: dict[str, str]
    means: list[Means]
    figures: list[PageFigure]
    missing: list[str]


def compare_runs(runs: Sequence[FinishedRun]) -> Comparison:
    """Rows by noise ratio, then by method and seed; only the runs' own files are read."""
    rows = [run_row(run) for run in runs]
    lines = _lines(rows)
    label_of = {id(row): label for label, members in reversed(lines.items()) for row in members}
    places = {label: place for place, label in enumerate(lines)}
    rows.sort(key=lambda row: (row.noise or 0.0, places[label_of[id(row)]], row.seed, row.name))
    titles = {
        key: title
        for key, title in {**METRIC_NAMES, **RANKING}.items()
        if any(row.figures.get(key) is not None for row in rows)
    }
    means = _means(lines, titles)
    figures = _figures(lines)
    return Comparison(
        rows,
        [label_of[id(row)] for row in rows],
        titles,
        means if any(group.runs > 1 for group in means) else [],
        figures,
        [*caveats(rows), *([] if figures else [_NO_CURVE])],
    )


def run_row(run: FinishedRun) -> RunRow:
    """What is compared of one run."""
    spec = dict(run.plain_spec)
    noise = spec.get("noise")
    drawn = (
        {} if noise is None else {key: in_line(value) for key, value in noise.items() if key not in ("ratio", "seed")}
    )
    if spec.get("decisions"):
        # Runs over several seeds have a table each.
        spec["decisions"] = "given"
    return RunRow(
        **own_fields(measured(run)),
        setting={key: value for key, value in spec.items() if key not in _FREE and (key != "decisions" or value)},
        protocol=None if noise is None else tuple(sorted(drawn.items())),
    )


def _lines(rows: Sequence[RunRow]) -> dict[str, list[RunRow]]:
    """The rows of each line by its label: one setting, one way of adding noise; runs without noise belong to all."""
    settings: list[Mapping[str, Any]] = []
    for row in rows:
        if row.setting not in settings:
            settings.append(row.setting)
    keyed: list[tuple[dict[str, str], list[RunRow]]] = []
    for setting in settings:
        members = [row for row in rows if row.setting == setting]
        protocols: list[Protocol | None] = [*sorted({row.protocol for row in members if row.protocol is not None})]
        for protocol in protocols or [None]:
            chosen = [row for row in members if row.protocol in (None, protocol)]
            noise = {f"noise.{key}": value for key, value in protocol or ()}
            keyed.append(({**_flat(setting), **noise}, chosen))
    labels = _labels([setting for setting, _ in keyed])
    return {label: members for label, (_, members) in zip(labels, keyed, strict=True)}


def _labels(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """The student and the method of each setting; where that is not enough, the values that tell them apart too."""
    short = [_short(setting) for setting in settings]
    labels = []
    for place, (label, setting) in enumerate(zip(short, settings, strict=True)):
        alike = [other for name, other in zip(short, settings, strict=True) if name == label]
        keys = sorted({key for other in alike for key in {*other, *setting} if other.get(key) != setting.get(key)})
        differing = ", ".join(f"{key}: {setting.get(key, 'none')}" for key in keys)
        labels.append(f"{label} ({differing})" if differing else label)
        if labels[-1] in labels[:-1]:
            labels[-1] += f" [{place + 1}]"
    return labels


def _short(setting: Mapping[str, str]) -> str:
    stages = setting["stages"].split(", ")
    method = method_of(stages)
    named = METHODS[method] if method else " + ".join(stage for stage in stages if stage != "evaluate")
    # The student takes part in a memory's run only by the layers that it reads.
    return named if method == "memory" else f"{setting['student.type']}, {named}"


def _flat(setting: Mapping[str, Any]) -> dict[str, str]:
    """A setting as dotted keys and their values in words; a stage's keys begin with its type."""
    flat: dict[str, str] = {"stages": ", ".join(stage["type"] for stage in setting["stages"])}
    for stage in setting["stages"]:
        flat |= _dotted(stage, f"{stage['type']}.")
    return flat | _dotted({key: value for key, value in setting.items() if key != "stages"}, "")


def _dotted(values: Mapping[str, Any], before: str) -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        flat |= _dotted(value, f"{before}{key}.") if isinstance(value, Mapping) else {before + key: in_line(value)}
    return flat


def _by_noise(members: Sequence[RunRow]) -> dict[float, list[RunRow]]:
    """The runs at every ratio; ratios that differ by the rounding of a class's count are kept apart."""
    found: dict[float, list[RunRow]] = {}
    for row in sorted(members, key=lambda row: row.noise or 0.0):
        found.setdefault(round(row.noise or 0.0, 4), []).append(row)
    return found


def _means(lines: Mapping[str, Sequence[RunRow]], titles: Mapping[str, str]) -> list[Means]:
    found = []
    for label, members in lines.items():
        for noise, rows in _by_noise(members).items():
            found.append(Means(label, noise, len(rows), mean_figures(rows, titles), *ends(rows)))
    return sorted(found, key=lambda group: group.noise)


def _figures(lines: Mapping[str, Sequence[RunRow]]) -> list[PageFigure]:
    if len({noise for members in lines.values() for noise in _by_noise(members)}) < 2:
        return []
    found = []
    for key in _MEASURED:
        title = {**METRIC_NAMES, **RANKING}[key]
        drawn = [line for label, members in lines.items() if (line := _line(label, members, key)).points]
        if sum(len(line.points) for line in drawn) > len(drawn):
            said = "; ".join(
                f"{line.label}: "
                + ", ".join(f"{percent(mean(v))} at {percent(noise)} %" for noise, v in line.points.items())
                for line in drawn
            )
            found.append(
                page_figure(
                    partial(
                        draw_robustness,
                        lines=drawn,
                        title=f"{title[0].upper()}{title[1:]} against noise",
                        unit=f"{title} (%)",
                    ),
                    f"all-{key.replace('_', '-')}",
                    f"{title[0].upper()}{title[1:]} against the share of known defects among the training images",
                    f"Percent. {said}.",
                    _caption(drawn),
                    height=2.8 + 0.18 * len(drawn),
                )
            )
    return found


def _caption(lines: Sequence[Line]) -> str:
    runs = [len(values) for line in lines for values in line.points.values()]
    if max(runs) == 1:
        return "Each point is one run." + (" Lines are set a little apart." if len(lines) > 1 else "")
    apart = ", set a little apart" if len(lines) > 1 else ""
    return f"Means of {plural(sum(runs), 'run')}; bars from the lowest to the highest seed{apart}."


def _line(label: str, members: Sequence[RunRow], key: str) -> Line:
    points = {
        noise: values
        for noise, rows in _by_noise(members).items()
        if (values := [value for row in rows if (value := row.figures.get(key)) is not None])
    }
    return Line(label, points)
