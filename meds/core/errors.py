"""The errors that meds raises on purpose: a small tree under `MedsError`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def first_line(error: BaseException) -> str:
    """What a foreign error says in its first line, or its type if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def unknown_name(what: str, name: str, known: Iterable[str], where: str = "") -> str:
    """A sentence for an unknown name, with the nearest known one; `where` follows the name."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known) or 'none'}."
    return f"unknown {what} '{name}'{where}; {hint}"


class MedsError(Exception):
    """Base class of all errors raised on purpose. The message is one clear sentence or a list of them."""

    exit_code = 1


class UserError(MedsError):
    """A mistake in the spec, the data or the command: says what is wrong, where, and what to do."""

    exit_code = 2


class SpecError(UserError):
    """The spec is not valid; the message has one line for each problem, with file, line and key."""


class PluginError(UserError):
    """A plugin is unknown, broken, or asked for something that it cannot do."""


class DataError(UserError):
    """The images, masks or labels cannot be used as they are; the message names the path."""


class SelectionError(UserError):
    """A selection rule leaves too few training images of a class."""


class ResourceError(UserError):
    """The machine has too little of something (disk, cache limit, device) for what was asked."""


class ArtifactError(MedsError):
    """A stored artifact is damaged or incomplete; the message names the file."""
