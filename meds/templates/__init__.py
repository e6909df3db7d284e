"""Writes a new plugin package from the templates beside this file."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

import yaml

import meds.api
from meds.core.errors import UserError
from meds.core.registry import Registry, unknown_name
from meds.templates.example_images import write_example_images

LONGEST_NAME = 30
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_SUFFIX = ".tmpl"


@dataclass(frozen=True)
class Scaffold:
    """A kind of plugin that can be begun: the registry's kind, and what its class is called after.

    `check_options` are those that `meds plugins check` needs in the package's folder.
    """

    kind: str
    hook: str
    class_suffix: str
    check_options: str = ""

    @property
    def module(self) -> str:
        """The module with the implementation, which is also the folder of its templates."""
        return self.kind.replace("-", "_")


SCAFFOLDS = {
    scaffold.kind: scaffold
    for scaffold in (
        Scaffold("student", "student", "Student"),
        Scaffold("detector", "student", "Detector"),
        Scaffold("backbone", "backbone", "Backbone"),
        Scaffold("stage", "stage", "Stage"),
        Scaffold("dataset", "dataset", "Dataset", " --set path=examples/images"),
        Scaffold("selection-rule", "selection rule", "Rule"),
        Scaffold("noise-protocol", "noise protocol", "Protocol"),
        Scaffold("logger", "logger", "Logger"),
    )
}


def write_package(kind: str, name: str, folder: Path, registry: Registry) -> Path:
    """Write the package `meds-NAME` into a folder; returns its path. Nothing is left behind if that fails.

    Raises:
        UserError: the kind is unknown, the name is not valid or taken, or the package's folder exists.
    """
    scaffold = _scaffold(kind)
    values = _values(scaffold, name)
    _refuse_taken(scaffold, name, values["module"], registry)
    target = folder / values["package"]
    if target.exists():
        raise UserError(f"{target} exists already; choose another name or --folder, or remove it.")
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".meds-") as temporary:
        draft = Path(temporary) / values["package"]
        for path, template in _files(scaffold, values).items():
            (draft / path).parent.mkdir(parents=True, exist_ok=True)
            text = Template(template.read_text(encoding="utf-8")).substitute(values)
            (draft / path).write_text(text, encoding="utf-8")
        if kind == "dataset":
            write_example_images(draft / "examples" / "images", registry)
        draft.rename(target)
    return target


def command_to_check(kind: str, name: str) -> str:
    """The command that checks such a plugin, given in its package's folder; UserError if the kind is unknown."""
    return f"meds plugins check {name}{_scaffold(kind).check_options}"


def _scaffold(kind: str) -> Scaffold:
    wanted = kind.strip().lower().replace(" ", "-").replace("_", "-")
    if wanted not in SCAFFOLDS:
        raise UserError(unknown_name("kind of plugin", kind, SCAFFOLDS))
    return SCAFFOLDS[wanted]


def _values(scaffold: Scaffold, name: str) -> dict[str, str]:
    """The placeholders of the templates; UserError if the name is not fit for all its uses."""
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise UserError(
            f"'{name}' cannot be a plugin's name: use small letters, digits and single hyphens, a letter first, "
            f"at most {LONGEST_NAME} characters, for example `my-{scaffold.kind}`."
        )
    base = "".join(part.capitalize() for part in name.split("-"))
    whole = base if base.endswith(scaffold.class_suffix) else base + scaffold.class_suffix
    values = {
        "kind": scaffold.kind.replace("-", " "),
        "file": scaffold.module,
        "name": name,
        "check": command_to_check(scaffold.kind, name),
        "package": f"meds-{name}",
        "module": f"meds_{name.replace('-', '_')}",
        "Class": whole,
        "Options": f"{base}Options",
    }
    # A spec would read a word such as `true` or `null` as something else than a name.
    if {values["Class"], values["Options"]} & set(meds.api.__all__) or yaml.safe_load(name) != name:
        raise UserError(f"'{name}' means something else already; choose a name that tells more.")
    return values


def _refuse_taken(scaffold: Scaffold, name: str, module: str, registry: Registry) -> None:
    if name in registry.names(scaffold.hook):
        package = registry.get(scaffold.hook, name).package
        raise UserError(f"The {scaffold.hook} name '{name}' is already taken by {package}; choose another.")
    if importlib.util.find_spec(module) is not None:
        raise UserError(f"A package '{module}' is already installed; choose another name, or uninstall it.")


def _files(scaffold: Scaffold, values: dict[str, str]) -> dict[str, Traversable]:
    """Paths within the new package and the templates that they are made from."""
    folder = files("meds.templates") / "plugin"
    common, own = folder / "package", folder / scaffold.module
    source = f"src/{values['module']}"
    return {
        "pyproject.toml": common / f"pyproject.toml{_SUFFIX}",
        "README.md": common / f"README.md{_SUFFIX}",
        f"{source}/__init__.py": own / f"__init__.py{_SUFFIX}",
        f"{source}/{scaffold.module}.py": own / f"{scaffold.module}.py{_SUFFIX}",
        f"tests/test_{values['module']}.py": own / f"test.py{_SUFFIX}",
        f"examples/{values['name']}.yaml": own / f"example.yaml{_SUFFIX}",
    }
