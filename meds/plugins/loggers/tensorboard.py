"""Registers the run logger `tensorboard`; its package is an extra and is imported when a run uses it."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from meds.core.hookspecs import hookimpl
from meds.core.registry import Options, Plugin


class TensorBoardOptions(Options):
    """Where the event files of TensorBoard go."""

    folder: str = Field(
        default="tensorboard",
        min_length=1,
        description="Folder of the event files; a relative one lies in the run's directory.",
    )


@hookimpl
def meds_loggers() -> Sequence[Plugin]:
    """The logger `tensorboard`."""
    return [
        Plugin(
            "tensorboard",
            TensorBoardOptions,
            "meds.plugins.loggers.tensorboard_logger:TensorBoard",
            "Losses, selection, costs and metrics as event files of TensorBoard (extra `tensorboard`).",
        )
    ]
