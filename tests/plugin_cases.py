"""Packages with plugins, as an installer would leave them, and a fresh Python that finds them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def distribution(site: Path, package: str, module: str, text: str) -> None:
    """An installed package with one module and an entry point in the group `meds`."""
    (site / f"{module}.py").write_text(text)
    sys.modules.pop(module, None)
    info = site / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[meds]\n{module} = {module}\n")


def python(code: str) -> list[str]:
    """What a fresh Python prints, as a list of lines."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()
