"""Opens a run that is done: its spec, images, figures and artifacts, and a scorer for images that it has not seen."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from meds.core.context import stage_context
from meds.core.data import RunData, Sample, read_csv
from meds.core.errors import ArtifactError, DataError, UserError
from meds.core.home import meds_home
from meds.core.image_files import one_line
from meds.core.images import UnreadableImageError
from meds.core.model import EvaluationDefaults
from meds.core.pipeline import Pipeline
from meds.core.plan import file_digests
from meds.core.registry import Registry, registry
from meds.core.run_again import run_again
from meds.core.run_directory import METRICS, POINTER, RunDirectory, read_json, read_table
from meds.core.run_notes import remember_opened
from meds.core.run_state import foreign_plugins
from meds.core.runtime import Precision
from meds.core.spec import Block, Spec, resolve_spec
from meds.core.spec_source import read_spec
from meds.core.stage import Scorer, Stage, StageContext
from meds.core.store import Artifact

SPEC = "spec.yaml"
_BLOCKS = {"dataset", "backbone", "student", "stages"}


class FinishedRun:
    """A run directory whose evaluation is done.

    Nothing is computed, and no image is scanned; the home that it was made in notes where it lies.
    It computes in the precision that it was made in, whatever `auto` means on this machine, or in `precision`.

    Raises:
        UserError: the folder is no run directory, the run is not finished, or its artifacts are gone.
    """

    def __init__(self, path: Path, found: Registry | None = None, precision: Precision | None = None) -> None:
        self.path = path
        self._registry, self._precision = found or registry(), precision
        self.state = RunDirectory(path).read_state()
        if not (path / "metrics.json").is_file():
            raise UserError(
                f"{path}: the run has no evaluation yet (status: {self.state['status']}); finish it with "
                "`meds run`, with `- {type: evaluate}` among its stages."
            )
        remember_opened(path, self.state)

    @cached_property
    def spec(self) -> Spec:
        """The resolved spec without its loggers, which need not be installed where a finished run is opened."""
        source = read_spec(self.path / SPEC)
        source.data.pop("loggers", None)
        return resolve_spec(source, self._registry)

    @property
    def spec_text(self) -> str:
        """The text of spec.yaml; UserError if it is gone or no text."""
        path = self.path / SPEC
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}); run the spec again.") from None

    @cached_property
    def plain_spec(self) -> dict[str, Any]:
        """The resolved spec as plain data, not to be changed; what it means may not be known here.

        Raises:
            UserError: spec.yaml is gone or damaged.
        """
        path = self.path / SPEC
        try:
            content: dict[str, Any] = yaml.safe_load(self.spec_text)
        except yaml.YAMLError as error:
            raise UserError(f"{path} is damaged ({one_line(str(error))}); run the spec again.") from None
        if not isinstance(content, dict) or not content.keys() >= _BLOCKS:
            raise UserError(f"{path} is damaged (it is no resolved spec); run the spec again.")
        return content

    @cached_property
    def data(self) -> RunData:
        """The images as data.csv lists them."""
        path = self.path / "data.csv"
        try:
            return read_csv(path.read_text(encoding="utf-8"), self.metrics["noise"])
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path} cannot be read ({error}); run the spec again.") from None

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """metrics.json."""
        return read_json(self.path / "metrics.json", METRICS)

    @cached_property
    def pipeline(self) -> Pipeline:
        """The spec's parts, in the home that the run was made in, or in today's if that is not there any more."""
        precision, home = self._precision or self.made_in, Path(self.state["home"])
        if not home.is_dir():
            home = meds_home()
        return Pipeline(self.spec, self._registry, home, self.data, precision)

    @property
    def made_in(self) -> Precision:
        """The precision that the run was computed in, and with it its thresholds."""
        precision: Precision = self.state["precision"]
        return precision

    def table(self, name: str) -> list[dict[str, str]]:
        """The rows of a table of the run directory, such as ranking.csv; none if the run writes no such table.

        Raises:
            UserError: it is damaged, or lacks a row for each of the images.
        """
        rows, data = read_table(self.path / name), self.data
        images = {"ranking.csv": len(data.train), "predictions.csv": len(data.test or data.train)}.get(name)
        if images is not None and len(rows) != images:
            raise UserError(
                f"{self.path / name} has {len(rows)} rows for {images} images; write it again with "
                f"`meds evaluate {self.path}`."
            )
        return rows

    def image(self, sample: Sample) -> npt.NDArray[np.uint8]:
        """An image of the run as it was made with it, RGB uint8 [H, W, 3].

        Raises:
            DataError: it cannot be read any more, or is another one now.
        """
        dataset, record = self.pipeline.dataset, sample.record
        try:
            unchanged = dataset.digest(record) == sample.digest
            image = dataset.image(record) if unchanged else None
        except UnreadableImageError as error:
            where = "" if Path(record.path).is_absolute() else f" (looked for from {Path.cwd()})"
            raise DataError(f"{error.what[:-1]}{where}; the run needs its images where they were.") from None
        if image is None:
            raise DataError(f"{record.path} is not the image any more that the run was made with.")
        return image

    def artifact(self, stage: str) -> Artifact:
        """The artifact of a stage, verified; UserError if it is gone or damaged."""
        pointer = read_json(self.path / stage / POINTER, ["fingerprint"])
        return self._opened(pointer["fingerprint"])

    def _opened(self, fingerprint: str) -> Artifact:
        try:
            return self.pipeline.store.open(fingerprint)
        except ArtifactError as error:
            home = self.state["home"]
            where = "" if Path(home).is_dir() else f" (it was made with MEDS_HOME={home}, which is gone)"
            raise UserError(
                f"{error} Run the spec again{where}: `{run_again(self.path, self.state['name'])}`."
            ) from None

    @cached_property
    def evaluation(self) -> Artifact:
        """The artifact of the evaluation that metrics.json is of."""
        return self.artifact(self._evaluating)

    @property
    def _evaluating(self) -> str:
        """The stage that metrics.json is of: of several evaluations not always the last, as after `--until`."""
        names = [block.name for block in self.spec.stages if self._stage(block).produces == "evaluation"]
        stage = self.metrics.get("stage")
        return stage if stage in names else names[-1]  # the first runs do not tell

    def calibration(self, class_name: str) -> dict[str, Any]:
        """The thresholds of a class and how far they can be trusted; UserError of a run of the first versions."""
        rows: dict[str, dict[str, Any]] = self.metrics.get("calibration", {})
        if class_name not in rows:
            raise UserError(
                f"{self.path / 'metrics.json'} has no calibration of the class '{class_name}', as of an earlier "
                f"version of meds; run its spec again: `{run_again(self.path, self.state['name'])}`."
            )
        return rows[class_name]

    @cached_property
    def evaluation_settings(self) -> EvaluationDefaults:
        """How score maps become anomaly maps and image scores."""
        return EvaluationDefaults(**self.metrics["evaluation"])

    @cached_property
    def scoring_block(self) -> Block:
        """The stage whose result the evaluation scored with: the last before it that can."""
        last = [stage.name for stage in self.spec.stages].index(self._evaluating)
        kinds = [kind for kinds in self._stage(self.spec.stages[last]).consumes() for kind in kinds]
        for block in reversed(self.spec.stages[:last]):
            if self._stage(block).produces in kinds:
                return block
        raise UserError(f"{self.path}: no stage of the run can score images.")

    def scorer(self) -> Scorer:
        """A scorer for any image; the run's own images need not be there.

        It scores with what the evaluation scored with, whatever has been computed since, so that the thresholds fit.

        Raises:
            UserError: the artifact is gone or damaged, or the encoder's file or the code of a plugin of another package
                is another one now.
        """
        self._check_plugins()
        self._check_encoder()
        block = self.scoring_block
        stage, inputs = self._stage(block), self.evaluation.manifest["inputs"]
        return stage.scorer(self.context(block.name), self._opened(inputs[stage.produces]))

    def _check_plugins(self) -> None:
        """UserError if the code of a plugin of another package is not what the run was made with."""
        now = foreign_plugins(self.spec)
        for name, identity in self.state.get("plugins", {}).items():
            if name in now and now[name] != identity:
                package, then = identity[1], identity[2]
                raise UserError(
                    f"The {name} of the package {package} has changed since the run {self.path} was made with version "
                    f"{then} of it (installed: {now[name][2]}); install what it was made with, or run the spec again."
                )

    def _check_encoder(self) -> None:
        """UserError if a file that the encoder is made from holds something else than when the run was made."""
        now = file_digests(self.spec.backbone.options)
        for option, digest in self.state.get("encoder_files", {}).items():
            if now.get(option, digest) != digest:
                file = getattr(self.spec.backbone.options, option)
                raise UserError(
                    f"{file}: the file has changed since the run {self.path} was made with it; bring the old one back, "
                    "or run the spec again."
                )

    def context(self, stage: str) -> StageContext:
        """What a stage of the run saw, without its inputs."""
        return stage_context(self.pipeline, stage)

    def _stage(self, block: Block) -> Stage:
        stage: Stage = block.registration.load(Stage)(block.options)
        return stage
