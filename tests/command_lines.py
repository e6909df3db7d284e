"""Reads command lines of meds by its own parser, without running them."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import typer

from meds.cli.app import app

MISSING = "Missing argument"


class UnknownCommandError(AssertionError):
    """A command line that meds would refuse."""


def every_command(command: Any) -> Iterator[Any]:
    """A command and all commands below it."""
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from every_command(inner)


def without_work() -> Any:
    """The command `meds`, whose parts parse their arguments and do nothing."""
    whole = typer.main.get_command(app)
    for command in every_command(whole):
        command.callback = None
    return whole


COMMAND = without_work()
OPTIONS = {
    name
    for command in every_command(COMMAND)
    for parameter in command.params
    for name in (*parameter.opts, *parameter.secondary_opts)
    if name.startswith("-")
}
"""Every option of every command, as it is written."""


def check_command(line: str, whole: bool = True) -> None:
    """UnknownCommandError unless meds knows the command, its options and the number and type of its arguments.

    `line` begins with "meds"; a comment at its end and brackets around options are left out. Where `whole` is False
    the line only mentions a command, and its arguments may be missing.
    """
    words = shlex.split(re.sub(r"(^| )\[(-[^]]*)]", r"\1\2", line), comments=True)
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            COMMAND.main(words[1:], prog_name="meds")
    except SystemExit as stop:
        told = said.getvalue()
        if stop.code not in (0, None) and (whole or MISSING not in told):
            raise UnknownCommandError(f"{line}\n{told}") from None
