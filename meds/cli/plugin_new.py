"""`meds plugins new`: begins a plugin package of one's own."""

from __future__ import annotations

from pathlib import Path

from meds.cli.console import console


def new_plugin(kind: str, name: str, folder: Path) -> None:
    """Write the package and say what to do next."""
    from meds.core.registry import registry
    from meds.templates import command_to_check, write_package

    package = write_package(kind, name, folder, registry())
    written = sorted(path.relative_to(package) for path in package.rglob("*") if path.is_file())
    shown = [path for path in written if path.suffix != ".png"]
    pictures = len(written) - len(shown)
    lines = [
        f"Written to {package}:",
        *(f"  {path}" for path in shown),
        *([f"  and {pictures} images"] if pictures else []),
        "Next:",
        f"  cd {package}",
        "  pip install -e .",
        f"  {command_to_check(kind, name)}",
        f"  meds run examples/{name}.yaml",
    ]
    console.print("\n".join(lines), soft_wrap=True)
