"""Writes a run's losses, selection, costs and metrics as event files of TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from meds.core.errors import PluginError
from meds.core.events import RunLogger
from meds.plugins.loggers.tensorboard import TensorBoardOptions

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

WHOLE_RUN = "run"
SELECTION_FIGURES = ("threshold", "alpha", "k")


class TensorBoard(RunLogger):
    """A folder of event files for the run and one for each of its trainings.

    A training that continues after a kill hides what an earlier file holds from that iteration on (`purge_step`), so
    that no step appears twice.

    Raises:
        PluginError: the package `tensorboard` is not installed.
    """

    options: TensorBoardOptions

    def __init__(self, options: TensorBoardOptions) -> None:
        super().__init__(options)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise PluginError(
                "The logger 'tensorboard' needs the package `tensorboard`: pip install 'meds-ad[tensorboard]'."
            ) from error
        self._writer_class = SummaryWriter
        self._writers: dict[str, SummaryWriter] = {}

    def run_started(self, run: Path, facts: dict[str, Any]) -> None:
        """The resolved spec as text."""
        text = yaml.safe_dump(facts.get("spec"), sort_keys=False, allow_unicode=True)
        self._writer(run, WHOLE_RUN, 0).add_text("spec", "\n".join(f"    {line}" for line in text.splitlines()))

    def iteration(self, run: Path, stage: str, facts: dict[str, Any]) -> None:  # noqa: ARG002
        """Loss and learning rate."""
        step = facts["iteration"]
        writer = self._writer(run, facts["training"], step)
        writer.add_scalar("loss", facts["loss"], step)
        writer.add_scalar("learning rate", facts["learning_rate"], step)

    def epoch(self, run: Path, stage: str, facts: dict[str, Any]) -> None:
        """Share of the selected images, threshold, and the weight and factor that lead to it, for each class."""
        step, name = facts["iteration"], facts["class"]
        writer = self._writer(run, f"{stage} of {name}", step)
        writer.add_scalar("selection/selected share", facts["selected"] / facts["total"], step)
        for key in SELECTION_FIGURES:
            writer.add_scalar(f"selection/{key}", facts[key], step)

    def after_stage(self, run: Path, stage: str, facts: dict[str, Any]) -> None:
        """Seconds and peak memory."""
        writer = self._writer(run, WHOLE_RUN, 0)
        writer.add_scalar(f"cost/{stage}/seconds", facts["cost"]["wall_s"], 0)
        writer.add_scalar(f"cost/{stage}/peak memory in MiB", facts["cost"]["peak_rss_mib"], 0)
        self._flush()

    def stage_failed(self, run: Path, stage: str, facts: dict[str, Any]) -> None:
        """The error as text."""
        self._writer(run, WHOLE_RUN, 0).add_text(f"failed/{stage}", str(facts.get("error")))
        self._close()

    def run_finished(self, run: Path, facts: dict[str, Any]) -> None:
        """The metrics of every class and their mean."""
        metrics = facts["metrics"]
        if metrics is not None:
            writer = self._writer(run, WHOLE_RUN, 0)
            for name, figures in {**metrics["classes"], "mean": metrics["mean"]}.items():
                for key, value in figures.items():
                    if isinstance(value, float):
                        writer.add_scalar(f"metrics/{name}/{key}", value, 0)
        self._close()

    def _writer(self, run: Path, name: str, step: int) -> SummaryWriter:
        if name not in self._writers:
            place = run / self.options.folder / name.replace("/", "-")
            # What a training showed before it began anew, or went on from an earlier step, is gone. The run's own
            # figures have no steps, and those of stages that are not computed again stay.
            self._writers[name] = self._writer_class(str(place), purge_step=None if name == WHOLE_RUN else step)
        return self._writers[name]

    def _flush(self) -> None:
        for writer in self._writers.values():
            writer.flush()

    def _close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
