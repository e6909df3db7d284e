"""What the benchmarks share: the machine in words, results as JSON, encoders of peers without a download."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import timm
import torch


def processor() -> str:
    """The processor's name and the cores that this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} threads"


def versions(*packages: str) -> dict[str, str]:
    """Versions of packages, without those that are not installed."""
    found = {}
    for name in ("meds-ad", "torch", "timm", *packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_result(path: Path | None, figures: Mapping[str, Any], *packages: str) -> None:
    """Write figures with date, machine and versions as JSON, if a path is given."""
    if path is None:
        return
    facts = {"date": date.today().isoformat(), "processor": processor(), "versions": versions(*packages)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**facts, **figures}, indent=2) + "\n", encoding="utf-8")


@contextmanager
def random_encoders() -> Iterator[None]:
    """While it is open, timm makes every encoder with random weights, also where a peer insists on pretrained ones."""
    create: Callable[..., Any] = timm.create_model

    def without_download(name: str, pretrained: bool = False, **arguments: Any) -> Any:  # noqa: ARG001
        return create(name, pretrained=False, **arguments)

    setattr(timm, "create_model", without_download)  # noqa: B010
    try:
        yield
    finally:
        setattr(timm, "create_model", create)  # noqa: B010
