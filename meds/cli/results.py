"""Tables of results: metrics by class, and the ranking's figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meds.cli.console import console, new_table
from meds.core.metric_names import METRIC_NAMES, NO_PIXELS, NO_TEST, without_figure, without_pixel_figures
from meds.core.units import percent

TITLES = {key: name.replace(" ", "\n") for key, name in METRIC_NAMES.items()}


def show_metrics(metrics: Mapping[str, Any]) -> None:
    """Print the metrics of a run as tables, in percent; columns that no class has are left out."""
    classes: Mapping[str, Mapping[str, float | None]] = metrics["classes"]
    if classes:
        rows = {**classes, **({"mean": metrics["mean"]} if len(classes) > 1 else {})}
        shown = [key for key in TITLES if any(row[key] is not None for row in rows.values())]
        titles = [TITLES[key] for key in shown]
        table = new_table("class", *titles, title="Test images (percent)", numbers=titles)
        for name, row in rows.items():
            table.add_row(name, *(percent(row[key]) for key in shown))
        console.print(table)
        lacking = without_figure(classes)
        if lacking:
            console.print(f"The mean is without {', '.join(lacking)}: {NO_TEST}.")
        unmasked = without_pixel_figures(classes)
        if unmasked:
            console.print(f"The mean of pixel figures is without {', '.join(unmasked)}: {NO_PIXELS}.")
    if metrics.get("calibration"):
        _show_thresholds(metrics["calibration"])
    ranking = metrics["ranking"]["classes"]
    if any(row["auprc"] is not None for row in ranking.values()):
        _show_ranking(ranking)


def _show_thresholds(calibration: Mapping[str, Mapping[str, Any]]) -> None:
    titles = ("threshold", "wanted", "to expect", "95 % interval")
    table = new_table("class", *titles, "set from", title="Thresholds and their false alarms (percent)", numbers=titles)
    for name, row in calibration.items():
        known = row["held_out"]
        expected = percent(row["expected"]) if known else "unknown"
        interval = f"{percent(row['low'])} to {percent(row['high'])}" if known else ""
        images = f"{row['images']} images {'held out' if known else 'trained on'}"
        table.add_row(name, f"{row['threshold']:.4g}", percent(row["wanted"]), expected, interval, images)
    console.print(table)


def _show_ranking(ranking: Mapping[str, Mapping[str, float | None]]) -> None:
    titles = ("AUROC", "AUPRC", "inspection\ndepth")
    table = new_table("class", *titles, title="Ranking of the training images (percent)", numbers=titles)
    for name, row in ranking.items():
        table.add_row(name, percent(row["auroc"]), percent(row["auprc"]), percent(row["inspection_depth"]))
    console.print(table)


def show_noise(noise: Mapping[str, Any]) -> None:
    """Print how many known defects are in the training images, and how many test images are."""
    without = []
    for name, row in noise["classes"].items():
        defects = row["injected"] + row["already_present"]
        if defects:
            console.print(
                f"{name}: {defects} defect{'s' * (defects != 1)} among {row['normals']} normal training images "
                f"({percent(row['ratio_of_normal'])} % of the normals, {percent(row['ratio_of_total'])} % of all)"
            )
        else:
            without.append(name)
    if without and (noise["protocol"] or len(without) < len(noise["classes"])):
        console.print(f"No known defect among the training images of: {', '.join(without)}")
    decided = noise.get("decisions", {}).values()
    if decided:
        removed, sure = (sum(row[key] for row in decided) for key in ("defects_removed", "normals_confirmed"))
        left = sum(row["known_defects_left"] for row in decided)
        console.print(
            f"{removed} confirmed defects removed, {sure} images confirmed as normal; known defects left: {left}"
        )
    elsewhere = noise.get("decisions_elsewhere", 0)
    if elsewhere:
        console.print(f"Decisions about images that are not among the training images: {elsewhere}")
    dropped, ignored = noise["total"]["dropped_normals"], noise.get("ignored", {})
    if dropped:
        console.print(f"Normal training images that are left out: {dropped}")
    if ignored:
        named = f"{', '.join(sorted(ignored)[:5])}{' and more' * (len(ignored) > 5)}"
        console.print(f"Images of classes that are not used, in the noise list: {sum(ignored.values())} ({named})")
    shared = noise["total"]["in_both_splits"]
    if shared:
        console.print(f"Test images that are training images too: {shared}")
