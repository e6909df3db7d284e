"""The commands `meds plugins ...`: list, show, begin and check plugins; each is imported only when it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

plugins_app = typer.Typer(
    help="List the installed plugins, look at one, check one, begin one of your own.",
    invoke_without_command=True,
    rich_markup_mode=None,
)

PluginName = Annotated[str, typer.Argument(metavar="NAME", help="The plugin's name in a spec.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@plugins_app.callback()
def list_plugins(context: typer.Context, as_json: AsJson = False) -> None:
    """List the installed plugins, broken ones with their errors."""
    if context.invoked_subcommand is None:
        from meds.cli.plugins import show_plugins

        show_plugins(as_json)


@plugins_app.command()
def show(
    name: PluginName,
    kind: Annotated[str | None, typer.Option("--kind", help="Its kind, where several plugins have the name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show one plugin: where it comes from, and every option with type, default and meaning."""
    from meds.cli.plugin_show import show_plugin

    show_plugin(name, kind, as_json)


@plugins_app.command()
def new(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="student, detector, backbone, stage, dataset, selection-rule, noise-protocol or logger.",
        ),
    ],
    name: PluginName,
    folder: Annotated[Path, typer.Option("--folder", help="Where to write the package's folder.")] = Path(),
) -> None:
    """Begin a plugin of your own: a package that installs, keeps the contract and runs."""
    from meds.cli.plugin_new import new_plugin

    new_plugin(kind, name, folder)


@plugins_app.command()
def check(
    name: PluginName,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the plugin; may be repeated.")
    ] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="Its kind, where several plugins have the name.")] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", metavar="NAME", help="The encoder that a student or detector needs.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check whether a plugin keeps the contract of its kind, on tiny data."""
    from meds.cli.plugin_check import check_plugin

    check_plugin(name, sets or [], kind, backbone, as_json)
