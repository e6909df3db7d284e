"""What a spec may say of the student `anomalib` and the backbone `pixels`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from anomalib_cases import meds, spec
from meds_anomalib import AnomalibOptions, PixelsOptions
from meds_anomalib.models import MODELS, REFUSED
from pydantic import ValidationError

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"model": "Padimm"},
            "'Padimm' is no anomalib model that is known to work in a meds run; did you mean 'Padim'?",
        ),
        ({"model": "EfficientAd"}, "anomalib's EfficientAd cannot be used in a meds run: it fetches its teacher's"),
        ({"model": "Stfpm"}, "anomalib's Stfpm does not say how long to train it: set max_epochs or max_steps"),
        ({"model": "Padim", "max_epochs": 3}, "anomalib's Padim has a length of its own: leave out max_epochs"),
        ({"model": "Padim", "init_args": {"visualizer": True}}, "init_args must not hold 'visualizer': meds draws"),
        ({"model": "Padim", "init_args": {"pre_trained": False}}, "set `pre_trained` of the student instead"),
        ({"model": "Padim", "pre_trained": False, "weights": "x"}, "exclude each other: leave out one"),
        ({"model": "Padim", "folds": 1}, "folds must be 0, or at least 2"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as found:
        AnomalibOptions.model_validate(options)
    assert sentence in str(found.value)


def test_a_cut_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValidationError, match="resize \\(32\\) must not be smaller than image_size \\(64\\)"):
        PixelsOptions(image_size=64, resize=32)


def test_models_that_keep_training_patches_are_scored_by_others() -> None:
    assert AnomalibOptions(model="Patchcore").fold_count() == 4
    assert AnomalibOptions(model="Padim").fold_count() == 0
    assert AnomalibOptions(model="Patchcore", folds=0).fold_count() == 0


def test_no_model_is_both_known_to_work_and_refused() -> None:
    assert not set(MODELS) & set(REFUSED)


def test_listing_the_plugins_imports_neither_torch_nor_anomalib() -> None:
    code = "import meds_anomalib, sys; sys.exit(bool({'torch', 'anomalib', 'timm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_another_backbone_is_refused_before_any_image_is_read(tmp_path: Path) -> None:
    backbone = {"type": "efficientnet-lite0", "pretrained": False, "image_size": 64}
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec(backbone=backbone)), encoding="utf-8")
    done = meds("run", path, "--runs-dir", tmp_path / "runs")
    assert done.code == 2
    assert (
        "reads images, and the backbone 'efficientnet-lite0' gives features: set `backbone: {type: pixels}`"
        in done.said
    )
    assert not (tmp_path / "runs" / "tiny" / "run.json").exists()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_valid(example: Path) -> None:
    done = meds("plan", example, "--without-data")
    assert done.code == 0, done.said
