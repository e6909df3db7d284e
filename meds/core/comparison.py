"""Compares the parts of MeDS on a spec: plain student, memory alone, distilled student, full method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from meds.core.data import digest_of_tests
from meds.core.errors import SpecError, UserError
from meds.core.metric_names import without_figure
from meds.core.registry import Registry, unknown_name
from meds.core.run_directory import RunDirectory, read_table
from meds.core.spec import Spec, resolve_spec
from meds.core.spec_source import SpecSource
from meds.core.stage import Reporter

METHODS = {"plain": "plain student", "memory": "memory alone", "distilled": "distilled", "full": "full MeDS"}
AS_WRITTEN = "as written"
_PARTS = ("memory", "distill", "select-finetune", "evaluate")
_SHARED_WITH_FIT = ("iterations", "batch_size", "holdout")


@dataclass(frozen=True)
class Case:
    """One run of a comparison. `ratio` and `seed` are None where the spec's own noise and seed are taken."""

    source: SpecSource
    method: str
    ratio: float | None = None
    seed: int | None = None

    @property
    def name(self) -> str:
        """The name of the run, which holds everything that tells it from the others."""
        parts = [str(self.source.data["name"])]
        parts += [] if self.method == AS_WRITTEN else [self.method]
        parts += [] if self.ratio is None else [f"noise-{self.ratio:.12g}"]
        parts += [] if self.seed is None else [f"seed-{self.seed}"]
        return "-".join(parts)


@dataclass(frozen=True)
class Row:
    """What one run came to. `noise` is the share of known defects per normal training image that was reached.

    `figures` has the means over classes of all image and pixel figures, of the ranking of the training images
    (`ranking_*`), and `injected_selected`, the share of known defects among the images selected at the last epoch;
    None where a figure is undefined. `seconds` is what the stages took when they were computed. `not_in_means` are the
    classes without figures, as those without a defect left to test on; `test_images` is a digest of the test images.
    """

    run: str
    spec: str
    student: str
    method: str
    ratio: float | None
    seed: int
    noise: float | None
    seconds: float
    figures: dict[str, float | None]
    not_in_means: list[str]
    test_images: str

    def as_dict(self) -> dict[str, Any]:
        """One flat table row, ready for JSON."""
        row = asdict(self)
        figures = row.pop("figures")
        return {**row, **figures}


class Measured(Protocol):
    """What a row of figures says of the images that it was measured on."""

    @property
    def seed(self) -> int:
        """The run's seed, by which noise is drawn too."""

    @property
    def not_in_means(self) -> list[str]:
        """Classes that the means over classes are without."""

    @property
    def test_images(self) -> str:
        """A digest of the test images."""


def lacking_classes(rows: Sequence[Measured]) -> list[str]:
    """A sentence if some means are means of fewer classes than others; none else."""
    names = sorted({name for row in rows for name in row.not_in_means})
    told = f"Some means are without {', '.join(names)}: not both normal and defective images to test on."
    return [told] if names else []


def different_tests(rows: Sequence[Measured]) -> list[str]:
    """A sentence if rows of one data set and seed are measured on different test images; none else."""
    told = (
        "Not all rows of one seed are measured on the same test images (with `overlap: false` the injected ones are "
        "taken out): compare those of one noise ratio."
    )
    return [told] if len({(row.seed, row.test_images) for row in rows}) > len({row.seed for row in rows}) else []


def cases(
    sources: Sequence[SpecSource],
    ratios: Sequence[float] | None = None,
    seeds: Sequence[int] | None = None,
    methods: Sequence[str] | None = None,
) -> list[Case]:
    """Every combination, each once; specs with other stages than those of the full method run as they are written.

    Raises:
        SpecError: a spec has no name.
        UserError: a method is unknown, two specs or two runs have one name, or methods are named for a spec that has
            no parts.
    """
    for method in methods or ():
        if method not in METHODS:
            raise UserError(unknown_name("method", method, METHODS))
    some_seeds: Sequence[int | None] = list(dict.fromkeys(seeds or [])) or [None]
    some_ratios: Sequence[float | None] = list(dict.fromkeys(ratios or [])) or [None]
    names = [source.data.get("name") for source in sources]
    for source, name in zip(sources, names, strict=True):
        if name is None:
            raise SpecError(f"{source.name}: the key `name` is missing.")
    for name in sorted({str(name) for name in names if names.count(name) > 1}):
        raise UserError(f"Two specs are called '{name}'; give one another `name`, because a folder bears it.")
    found = []
    for source in sources:
        chosen = list(dict.fromkeys(methods or METHODS))
        if not has_parts(source):
            if methods:
                raise UserError(
                    f"{source.name}: only a spec with the stages {', '.join(_PARTS[:-1])} and {_PARTS[-1]} can be "
                    "taken apart; leave --methods out to run this one as it is written."
                )
            chosen = [AS_WRITTEN]
        found += [
            Case(source, method, ratio, seed) for seed in some_seeds for ratio in some_ratios for method in chosen
        ]
    _refuse_alike(found)
    return found


def _refuse_alike(found: Sequence[Case]) -> None:
    """UserError if two runs would write into one folder, as those of a spec `bolt` and a spec `bolt-plain` may."""
    names = [case.name for case in found]
    for case in found:
        if names.count(case.name) > 1:
            raise UserError(
                f"{case.source.name}: two runs of this comparison would be called '{case.name}'; give one of the specs "
                "another `name`."
            )


def has_parts(source: SpecSource) -> bool:
    """Whether a spec's stages are those of the full method; what stands in for the memory may be a plugin's."""
    stages = source.data.get("stages")
    if not isinstance(stages, list) or len(stages) != len(_PARTS):
        return False
    types = [stage.get("type") if isinstance(stage, Mapping) else None for stage in stages]
    return types[1:] == list(_PARTS[1:])


def spec_of(case: Case, registry: Registry) -> Spec:
    """The resolved spec of a case.

    Raises:
        SpecError: the spec is not valid.
        UserError: a ratio is wanted of a noise protocol that has none.
    """
    source = case.source
    resolve_spec(source, registry)
    data = {**source.data, "name": case.name}
    if case.method != AS_WRITTEN:
        data["stages"] = _stages(source.data["stages"], case.method)
    if case.seed is not None:
        data["seed"] = case.seed
    data["noise"] = _noise(case, registry)
    places = {path: place for path, place in source.places.items() if path[0] != "stages"}
    return resolve_spec(SpecSource(source.name, data, places), registry)


def _stages(whole: Sequence[dict[str, Any]], method: str) -> list[dict[str, Any]]:
    """The stage list of a method, from that of the full method.

    The plain student has no memory that could rank. It trains as long as the full method where that length is written
    down; else each as its paper says, which for INP-Former and HVQ is longer without a selection.
    """
    memory, distill, finetune, evaluate = whole
    if method == "plain" and evaluate.get("ranking") == "memory":
        evaluate = {**evaluate, "ranking": "student"}
    fit = {"type": "fit", **{key: finetune[key] for key in _SHARED_WITH_FIT if key in finetune}}
    if "distance" in memory:
        fit["distance"] = memory["distance"]
    parts = {
        "plain": [fit],
        "memory": [memory],
        "distilled": [memory, distill],
        "full": [memory, distill, finetune],
    }
    return [*parts[method], evaluate]


def _noise(case: Case, registry: Registry) -> dict[str, Any] | None:
    """The noise block with the case's ratio and seed; a ratio of 0 is no noise at all."""
    written = case.source.data.get("noise")
    if case.ratio == 0 or (written is None and case.ratio is None):
        return None
    noise = dict(written or {})
    kind = registry.meant("noise protocol", noise) or ""
    known = registry.get("noise protocol", kind).plugin.options.model_fields
    if case.ratio is not None:
        if "ratio" not in known:
            raise UserError(f"{case.source.name}: the noise protocol '{kind}' has no ratio; leave --ratios out.")
        noise["ratio"] = case.ratio
    if case.seed is not None and "seed" in known:
        noise["seed"] = case.seed
    return noise


def run_case(case: Case, registry: Registry, runs: Path, reporter: Reporter) -> Row:
    """Run a case in a folder of its own below `runs`; what is finished is not computed again.

    Raises:
        UserError: the spec is not valid or has no stage evaluate.
    """
    from meds.core.pipeline import Pipeline
    from meds.core.runner import Runner, RunRequest

    spec = spec_of(case, registry)
    directory = runs / spec.name
    pipeline = Pipeline(spec, registry, reporter=reporter)
    metrics = Runner(pipeline, RunRequest(directory), reporter).run()
    if metrics is None:
        raise UserError(f"{case.source.name}: there is nothing to compare without the stage evaluate.")
    state = RunDirectory(directory).read_state()
    ranking = {f"ranking_{key}": value for key, value in metrics["ranking"]["mean"].items()}
    return Row(
        run=str(directory),
        spec=str(case.source.data["name"]),
        student=spec.student.type,
        method=case.method,
        ratio=case.ratio,
        seed=spec.seed,
        noise=metrics["noise"]["total"]["ratio_of_normal"],
        seconds=sum(stage["cost"]["wall_s"] for stage in state["stages"]),
        figures={**metrics["mean"], **ranking, "injected_selected": _injected_among_selected(directory)},
        not_in_means=without_figure(metrics["classes"]),
        test_images=digest_of_tests(pipeline.data.test),
    )


def _injected_among_selected(directory: Path) -> float | None:
    last = {row["class"]: row for row in read_table(directory / "selection.csv")}.values()
    if not last:
        return None
    return sum(int(row["injected_selected"]) for row in last) / sum(int(row["selected"]) for row in last)
