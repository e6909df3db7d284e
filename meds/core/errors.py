"""The errors that meds raises on purpose: a small tree under `MedsError`."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """What a foreign error says in its first line, or its type if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


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
