"""The noise protocol `inject`: adds labelled defects of the test split to the training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from meds.core.contamination import (
    ClassNoise,
    Contaminated,
    NoiseProtocol,
    NoiseReport,
    available_defects,
    class_names,
    count_by_class,
)
from meds.core.dataset import ANOMALOUS, Record
from meds.core.errors import DataError
from meds.core.hookspecs import hookimpl
from meds.core.registry import Options, Plugin
from meds.core.seeds import derive_seed


class InjectOptions(Options):
    """Options of the noise protocol `inject`. The defaults follow the MeDS paper (sec. 5.1)."""

    ratio: float = Field(
        ge=0, allow_inf_nan=False, description="How many defects to add to each class, as a fraction of `of`."
    )
    of: Literal["normal", "total"] = Field(
        default="normal",
        description="What the ratio counts: defects per normal training image, or per training image.",
    )
    overlap: bool = Field(
        default=True,
        description="Keep the injected images in the test split too, as the paper does; false removes them.",
    )
    shortage: Literal["cap", "error", "repeat", "drop-normals"] = Field(
        default="cap",
        description="If a class has too few defects: take all it has, stop with an error, use some of them "
        "several times, or take all and drop normal training images until the ratio holds.",
    )
    seed: int = Field(default=0, ge=0, description="Draws the defects, independently for each class.")
    stratify: Literal["defect", "class"] = Field(
        default="defect",
        description="Draw from each defect type of a class in proportion, or from the whole class at random.",
    )

    @model_validator(mode="after")
    def _share_of_total_is_below_one(self) -> InjectOptions:
        if self.of == "total" and self.ratio >= 1:
            raise ValueError("`ratio` must be below 1 with `of: total`: a training set needs normal images")
        return self

    @property
    def per_normal(self) -> Fraction:
        """Defects per normal training image, exactly as the decimal number was written."""
        ratio = Fraction(str(self.ratio))
        return ratio if self.of == "normal" else ratio / (1 - ratio)


@dataclass(frozen=True)
class _ClassDraw:
    """Of one class: the defects to add, the normal training images to leave out, and the counts."""

    drawn: list[Record]
    dropped: set[int]
    noise: ClassNoise


class InjectProtocol(NoiseProtocol):
    """Adds k defects of the test split to each class, k = ratio x normal training images, half to even.

    Training images of unknown label count as normal. A class's draw depends on the seed, the class's own
    records and their order, and on nothing else.
    """

    options: InjectOptions

    def apply(self, records: Sequence[Record]) -> Contaminated:
        """All training records in their order, then the injected ones, class by class.

        Raises DataError if defects are wanted but the test split has none, or if a class has too few and
        the options forbid (`error`) or cannot mend that.
        """
        defects = [record for record in records if record.split == "test" and record.label == ANOMALOUS]
        if self.options.ratio > 0 and not defects:
            raise DataError(
                "Noise needs labelled defects in the test split, and there are none; leave `noise` out to "
                "use the data as they are."
            )
        draws = {name: self._draw(name, records) for name in class_names(records)}
        injected = [record for draw in draws.values() for record in draw.drawn]
        dropped = {index for draw in draws.values() for index in draw.dropped}
        kept = [r for index, r in enumerate(records) if r.split == "train" and index not in dropped]
        removed = set() if self.options.overlap else set(injected)
        return Contaminated(
            (*kept, *(replace(record, split="train") for record in injected)),
            (*(record.label == ANOMALOUS for record in kept), *(True for _ in injected)),
            tuple(record for record in records if record.split == "test" and record not in removed),
            NoiseReport(
                {name: draw.noise for name, draw in draws.items()},
                "inject",
                self.options.overlap,
                self.options.model_dump(mode="json"),
            ),
        )

    def _draw(self, name: str, records: Sequence[Record]) -> _ClassDraw:
        own = [(index, record) for index, record in enumerate(records) if record.class_name == name]
        train = [record for _, record in own if record.split == "train"]
        normals = [i for i, record in own if record.split == "train" and record.label != ANOMALOUS]
        # A data set may hold known defects in both splits by itself; those cannot be injected once more.
        defects = available_defects([record for _, record in own])
        requested = round(self.options.per_normal * len(normals))
        generator = np.random.default_rng(derive_seed(self.options.seed, "noise", name))
        count, keep = self._resolve(name, requested, len(defects), len(normals))
        drawn = self._sample(defects, count, generator)
        order = generator.permutation(len(normals))
        return _ClassDraw(
            drawn,
            {normals[position] for position in order[keep:]},
            ClassNoise(
                normals=keep,
                anomalies_available=len(defects),
                already_present=count_by_class(train, anomalous=True)[name],
                requested=requested,
                injected=len(drawn),
                dropped_normals=len(normals) - keep,
            ),
        )

    def _resolve(self, name: str, requested: int, available: int, normals: int) -> tuple[int, int]:
        """(defects to inject, normal training images to keep) under the shortage rule."""
        shortage = self.options.shortage
        if requested <= available:
            return requested, normals
        if shortage == "cap":
            return available, normals
        if shortage == "error" or not available:
            base = f"{self.options.of} training images ({normals} normal ones)"
            raise DataError(
                f"The class '{name}' has {available} labelled defects in the test split, but a noise ratio "
                f"of {self.options.ratio:g} of its {base} needs {requested}; lower `noise.ratio` or set "
                "`noise.shortage: cap`."
            )
        if shortage == "repeat":
            return requested, normals
        return available, max(1, round(available / self.options.per_normal))

    def _sample(self, defects: list[Record], count: int, generator: np.random.Generator) -> list[Record]:
        """`count` of the defects in their own order; beyond their number, all of them again first."""
        rounds, rest = divmod(count, len(defects)) if defects else (0, 0)
        groups: dict[str, list[int]] = {}
        for position, record in enumerate(defects):
            key = (record.defect or "") if self.options.stratify == "defect" else ""
            groups.setdefault(key, []).append(position)
        shares = largest_remainder({key: len(group) for key, group in groups.items()}, rest)
        # The groups are shuffled whole and by name, so that a larger count extends a smaller one.
        chosen = [
            group[place]
            for key, group in sorted(groups.items())
            for place in generator.permutation(len(group))[: shares[key]]
        ]
        return defects * rounds + [defects[position] for position in sorted(chosen)]


def largest_remainder(sizes: dict[str, int], count: int) -> dict[str, int]:
    """Split `count` over groups in proportion to their sizes; never more than a group has.

    Each group gets the whole part of its quota; what is left goes one by one to the largest remainders,
    among equal ones to the larger group, then to the first name in alphabetical order. `count` is at most
    the sum of the sizes.
    """
    total = sum(sizes.values())
    quotas = {name: Fraction(count * size, total) for name, size in sizes.items()}
    shares = {name: int(quota) for name, quota in quotas.items()}
    by_remainder = sorted(sizes, key=lambda name: (shares[name] - quotas[name], -sizes[name], name))
    for name in by_remainder[: count - sum(shares.values())]:
        shares[name] += 1
    return shares


@hookimpl
def meds_noise_protocols() -> Sequence[Plugin]:
    """The built-in noise protocol."""
    return [
        Plugin(
            name="inject",
            options=InjectOptions,
            load="meds.plugins.noise:InjectProtocol",
            summary="Adds labelled test defects to the training images, by class and defect type.",
            without_type="",
        )
    ]
