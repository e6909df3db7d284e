"""Registers the run logger `wandb` and its options, without importing Weights & Biases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from meds.api import Options, Plugin, hookimpl

MEDS_API = 1


class WandbOptions(Options):
    """Where the run appears."""

    project: str = Field(default="meds", min_length=1, description="Name of the project.")
    entity: str | None = Field(default=None, description="User or team; default: the account's own.")
    mode: Literal["online", "offline"] | None = Field(
        default=None,
        description="offline writes files only, to be sent later with `wandb sync`. Default: WANDB_MODE, else online.",
    )
    tables: bool = Field(
        default=True,
        description="Keep the tables, metrics.json and spec.yaml with it.",
    )


@hookimpl
def meds_loggers() -> Sequence[Plugin]:
    """The logger `wandb`."""
    return [
        Plugin(
            name="wandb",
            options=WandbOptions,
            load="meds_wandb.logger:Wandb",
            summary="Configuration, losses, selection, costs and metrics as a run of Weights & Biases.",
        )
    ]
