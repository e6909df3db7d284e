"""What an exported file says of itself, as JSON under the key `meds`: thresholds, calibration, shapes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from meds import __version__
from meds.core.backbone import Preprocessing
from meds.core.errors import UserError
from meds.core.finished_run import FinishedRun
from meds.core.images import FULL_BITS
from meds.core.thresholds import ClassThreshold, Thresholds
from meds.export.calibration import FileCalibration

KEY = "meds"
FORMAT = 3


@dataclass(frozen=True)
class Metadata:
    """The class of an exported detector, its thresholds, its preprocessing and the used bits of 16-bit grey images."""

    class_name: str
    thresholds: Thresholds
    preprocessing: Preprocessing
    text: str
    bits: int = FULL_BITS


def describe(run: FinishedRun, class_name: str, calibration: FileCalibration) -> Metadata:
    """The metadata of a run's detector for one class."""
    row = calibration.threshold
    preprocessing = run.pipeline.backbone.preprocessing
    content = {
        "format": FORMAT,
        "meds_version": __version__,
        "run": run.spec.name,
        "class": class_name,
        "input": "image: RGB uint8 [1, height, width, 3], any height and width",
        "outputs": "score: float32 [1]; map: float32 [1, S, S] of the central part that the encoder sees",
        "threshold": row.image,
        "pixel_threshold": row.pixel,
        "heatmap": list(row.heatmap),
        "calibration": calibration.calibration,
        "calibration_scores": {
            "images": row.images.tolist(),
            "peaks": row.peaks.tolist(),
            "normal": row.normal.tolist(),
        },
        "preprocessing": {"resize": preprocessing.resize, "size": preprocessing.size},
        "bits": run.pipeline.dataset.bits,
        "spec": run.spec.dump(),
    }
    return parse(json.dumps(content, ensure_ascii=False), "the run")


def parse(text: str | None, source: str) -> Metadata:
    """The metadata of a file from its JSON text.

    Raises:
        UserError: there is none, or it is of another format.
    """
    try:
        content: dict[str, Any] = json.loads(text or "")
        known = content["format"] == FORMAT
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{source} was not written by `meds export`: it holds no description under 'meds'.") from None
    if not known:
        raise UserError(f"{source} has format {content['format']}, and this version of meds reads {FORMAT}.")
    low, high = content["heatmap"]
    row = ClassThreshold(
        image=content["threshold"],
        pixel=content["pixel_threshold"],
        heatmap=(low, high),
        images=np.array(content["calibration_scores"]["images"]),
        peaks=np.array(content["calibration_scores"]["peaks"]),
        normal=np.array(content["calibration_scores"]["normal"]),
        held_out=content["calibration"]["held_out"],
    )
    return Metadata(
        content["class"],
        Thresholds({content["class"]: row}),
        Preprocessing(**content["preprocessing"]),
        text or "",
        content.get("bits", FULL_BITS),
    )
