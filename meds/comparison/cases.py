"""The runs of a comparison: a spec's method, noise ratio and seed, and the spec that each run is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meds.comparison.methods import METHODS, WHOLE, has_parts, stages_of
from meds.core.errors import SpecError, UserError
from meds.core.registry import Registry, unknown_name
from meds.core.spec import Spec, resolve_spec
from meds.core.spec_source import SpecSource

AS_WRITTEN = "as written"


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
                    f"{source.name}: only a spec with the stages {', '.join(WHOLE[:-1])} and {WHOLE[-1]} can be "
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


def spec_of(case: Case, registry: Registry) -> Spec:
    """The resolved spec of a case.

    Raises:
        SpecError: the spec is not valid.
        UserError: a ratio is wanted of a noise protocol that has none.
    """
    source = case.source
    whole = resolve_spec(source, registry)
    data = {**source.data, "name": case.name}
    if case.method != AS_WRITTEN:
        data["stages"] = stages_of(case.method, source.data["stages"], whole)
    if case.seed is not None:
        data["seed"] = case.seed
    data["noise"] = _noise(case, registry)
    places = {path: place for path, place in source.places.items() if path[0] != "stages"}
    return resolve_spec(SpecSource(source.name, data, places), registry)


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
