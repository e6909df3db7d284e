"""What one finished run came to, in one row, and the means of several rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import mean
from typing import Any

from meds.core.data import RunData, digest_of_images
from meds.core.finished_run import FinishedRun
from meds.core.metric_names import without_figure, without_pixel_figures


@dataclass(frozen=True)
class Measured:
    """One run: what it was measured on, and its figures.

    `run` is its folder, `dataset` the resolved block of its spec as one line of JSON. `noise` is the number of known
    defects per other training image that was reached, None where it is undefined; `seconds` is what the stages took
    when they were computed. `figures` has the means over classes of all image and pixel figures, of the ranking of the
    training images (`ranking_*`), and `injected_selected`, the share of known defects among the images selected at the
    last epoch; None where a figure is undefined, as that share is where no defect is known.

    `not_in_means` are the classes without any figures, as those without a defect left to test on; `not_in_pixel_means`
    are those that lack the pixel figures alone. `test_images` and `training_images` are digests of which images these
    are. `in_both_splits` test images are training images too; `leaked` of them the noise protocol did not put there.
    """

    run: str
    name: str
    dataset: str
    seed: int
    noise: float | None
    seconds: float
    figures: Mapping[str, float | None]
    not_in_means: list[str]
    not_in_pixel_means: list[str]
    test_images: str
    training_images: str
    in_both_splits: int
    leaked: int


def measured(run: FinishedRun) -> Measured:
    """What a run came to, by its own files alone.

    Raises:
        UserError: one of these files is gone or damaged.
    """
    metrics, data, spec = run.metrics, run.data, run.plain_spec
    ranking = {f"ranking_{key}": value for key, value in metrics["ranking"]["mean"].items()}
    noise = metrics["noise"]["total"]["ratio_of_normal"]
    if spec.get("decisions"):
        # What people took out is noise no longer.
        known = sum(sample.injected for sample in data.train)
        others = len(data.train) - known
        noise = known / others if others else None
    return Measured(
        run=str(run.path),
        name=run.state["name"],
        dataset=json.dumps(spec["dataset"], sort_keys=True, ensure_ascii=False),
        seed=run.state["seed"],
        noise=noise,
        seconds=sum(stage["cost"]["wall_s"] for stage in run.state["stages"] if stage["cost"]),
        figures={**metrics["mean"], **ranking, "injected_selected": _injected_among_selected(run)},
        not_in_means=without_figure(metrics["classes"]),
        not_in_pixel_means=without_pixel_figures(metrics["classes"]),
        test_images=digest_of_images(data.test),
        training_images=digest_of_images(data.train),
        in_both_splits=metrics["noise"]["total"].get("in_both_splits", 0),
        leaked=_leaked(data),
    )


def own_fields(row: Measured) -> dict[str, Any]:
    """The fields of `Measured` by their names, for a row that says more of a run."""
    return {field.name: getattr(row, field.name) for field in fields(Measured)}


def _leaked(data: RunData) -> int:
    """The number of test images that are training images too without the noise protocol having put them there."""
    by_protocol = bool(data.noise.get("overlap"))
    trained = {sample.digest for sample in data.train if not (by_protocol and sample.injected)}
    return sum(sample.digest in trained for sample in data.test)


def _injected_among_selected(run: FinishedRun) -> float | None:
    """The share of known defects among the images selected at the last epoch; None without either."""
    last = {row["class"]: row for row in run.table("selection.csv")}.values()
    selected = sum(int(row["selected"]) for row in last)
    if not selected or not any(sample.injected for sample in run.data.train):
        return None
    return sum(int(row["injected_selected"]) for row in last) / selected


def mean_figures(rows: Sequence[Measured], keys: Iterable[str]) -> dict[str, float | None]:
    """The mean of each figure over the rows that have it; None where none has."""
    values = {key: _values(rows, key) for key in keys}
    return {key: mean(found) if found else None for key, found in values.items()}


def ends(rows: Sequence[Measured], key: str = "image_auroc") -> tuple[float | None, float | None]:
    """The lowest and the highest of a figure; None without any."""
    found = _values(rows, key)
    return (min(found), max(found)) if found else (None, None)


def _values(rows: Sequence[Measured], key: str) -> list[float]:
    return [value for row in rows if (value := row.figures.get(key)) is not None]
