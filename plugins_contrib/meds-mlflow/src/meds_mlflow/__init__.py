"""Registers the run logger `mlflow` and its options, without importing MLflow."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from meds.api import Options, Plugin, hookimpl

MEDS_API = 1


class MlflowOptions(Options):
    """Which server is told, and what of."""

    tracking_uri: str | None = Field(
        default=None,
        description="Address of the tracking server, or sqlite:///FILE. Default: MLFLOW_TRACKING_URI, or what MLflow "
        "takes without it.",
    )
    experiment: str = Field(default="meds", min_length=1, description="Name of the experiment; made if it is new.")
    tables: bool = Field(
        default=True, description="Store metrics.json, predictions.csv, ranking.csv, selection.csv and spec.yaml."
    )
    model: bool = Field(default=False, description="Store the weights of the last trained student (safetensors).")


@hookimpl
def meds_loggers() -> Sequence[Plugin]:
    """The logger `mlflow`."""
    return [
        Plugin(
            name="mlflow",
            options=MlflowOptions,
            load="meds_mlflow.logger:Mlflow",
            summary="Parameters, losses, selection, costs and metrics as a run of MLflow.",
        )
    ]
