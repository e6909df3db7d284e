"""Records and short cuts that the tests of the noise protocol share."""

from __future__ import annotations

from typing import Any

from meds.core.contamination import Contaminated
from meds.core.dataset import Record
from meds.plugins.noise import InjectOptions, InjectProtocol


def make_class(name: str, normals: int, defects: dict[str, int], good: int = 3) -> list[Record]:
    return [
        *(Record(f"{name}/train/good/{i:03}.png", name, "train", 0, "good") for i in range(normals)),
        *(Record(f"{name}/test/good/{i:03}.png", name, "test", 0, "good") for i in range(good)),
        *(
            Record(f"{name}/test/{kind}/{i:03}.png", name, "test", 1, kind, f"{name}/mask/{kind}/{i:03}.png")
            for kind, count in defects.items()
            for i in range(count)
        ),
    ]


def inject(records: list[Record], **options: Any) -> Contaminated:
    return InjectProtocol(InjectOptions(**options)).apply(records)


def injected(result: Contaminated) -> list[Record]:
    return [record for record, flag in zip(result.train, result.injected, strict=True) if flag]


def defects_of(records: list[Record]) -> list[Record]:
    return [record for record in records if record.split == "test" and record.label == 1]


BOTTLE = make_class("bottle", 209, {"broken_large": 20, "broken_small": 22, "contamination": 21})
CABLE = make_class("cable", 30, {"bent": 5, "cut": 7})
