"""Times predictions from file to anomaly map and score against anomalib's Dinomaly and PatchCore on the same encoder.

    python benchmarks/inference.py [--student dinomaly|patchcore] [--images 32] [--json FILE]

One image at a time, and batches of 16. Random weights on both sides; the fit is as short as can be, because only
prediction is timed. The peer reads a file with anomalib's own function, applies the model's own preprocessing and calls
the model, without the engine around it, which would only cost time. `patchcore` needs the package meds-patchcore.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from surroundings import random_encoders, write_result

from meds.core.finished_run import FinishedRun
from meds.core.images import read_rgb
from meds.core.pipeline import Pipeline
from meds.core.predict import Predictor
from meds.core.registry import registry
from meds.core.reporter import SilentReporter
from meds.core.runner import Runner, RunRequest
from meds.core.spec import resolve_spec
from meds.core.spec_source import SpecSource
from meds.core.timing import seconds_of
from meds.plugins.datasets.synthetic import SyntheticDataset, SyntheticOptions

ENCODERS = {"dinomaly": "vit_small_patch14_dinov2", "patchcore": "wide_resnet50_2"}
SIZES = {"dinomaly": 392, "patchcore": 224}
Predict = Callable[[Sequence[Path]], object]


def drawn_files(folder: Path, count: int, size: int) -> list[Path]:
    """Drawn images as PNG files."""
    dataset = SyntheticDataset(SyntheticOptions(classes=["weave"], train=count, image_size=size))
    paths = []
    for number, record in enumerate(dataset.records()[:count]):
        paths.append(folder / f"{number:03}.png")
        Image.fromarray(dataset.read_image(record)).save(paths[-1])
    return paths


def meds_predictor(student: str, folder: Path, images: int) -> Predict:
    """A run with the shortest possible fit, and its predictor."""
    size = SIZES[student]
    layers = {"layers": ["stride8", "stride16"]} if student == "patchcore" else {}
    spec = {
        "name": "inference",
        "dataset": {"type": "synthetic", "classes": ["weave"], "train": images, "image_size": size},
        "backbone": {"type": "timm", "model": ENCODERS[student], "pretrained": False, "image_size": size},
        "student": {"type": student, **layers},
        "stages": [{"type": "fit"} | ({"iterations": 1} if student == "dinomaly" else {}), {"type": "evaluate"}],
    }
    pipeline = Pipeline(resolve_spec(SpecSource("benchmark", spec), registry()), registry())
    Runner(pipeline, RunRequest(folder / "run"), SilentReporter()).run()
    predictor = Predictor(FinishedRun(folder / "run"))
    return lambda paths: predictor.predict([read_rgb(path) for path in paths], ["weave"] * len(paths))


def peer_predictor(student: str, training: Sequence[Path]) -> Predict:
    """anomalib's model in evaluation mode."""
    from anomalib.data.utils import read_image as read_tensor
    from anomalib.models import Dinomaly, Patchcore

    with random_encoders():
        model: Any = Dinomaly(encoder_name=ENCODERS[student]) if student == "dinomaly" else Patchcore(pre_trained=False)
    prepare = model.pre_processor if student == "dinomaly" else Patchcore.configure_pre_processor((224, 224))

    def load(paths: Sequence[Path]) -> torch.Tensor:
        return torch.cat([prepare(torch.as_tensor(read_tensor(path, as_tensor=True))[None]) for path in paths])

    if student == "patchcore":
        model.model.train()
        for start in range(0, len(training), 16):
            model.model(load(training[start : start + 16]))
        # Which tenth of the patches is remembered does not matter to the time, and choosing it well takes minutes.
        model.model.memory_bank = torch.cat(model.model.embedding_store)[::10].contiguous()
        model.model.embedding_store.clear()
    model.model.eval()

    def predict(paths: Sequence[Path]) -> object:
        with torch.inference_mode():
            return model.model(load(paths))

    return predict


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--student", choices=sorted(ENCODERS), default="dinomaly")
    parser.add_argument("--images", type=int, default=32, help="training images, and images to predict")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    figures: dict[str, Any] = {"student": given.student, "encoder": ENCODERS[given.student]}
    with tempfile.TemporaryDirectory() as place:
        os.environ["MEDS_HOME"] = str(Path(place) / "home")
        paths = drawn_files(Path(place), given.images, SIZES[given.student])
        ours = meds_predictor(given.student, Path(place), given.images)
        theirs = peer_predictor(given.student, paths)
        for batch in (1, 16):
            chosen = paths[:batch]
            ours(chosen), theirs(chosen)
            times = 10 if batch == 1 else 3
            mine, peer = (seconds_of(lambda f=f, c=chosen: f(c), times) / batch for f in (ours, theirs))
            figures[f"batch_{batch}"] = {"meds_seconds": mine, "peer_seconds": peer, "ratio": peer / mine}
            print(
                f"{given.student}, batches of {batch}: meds {1000 * mine:.0f} ms an image, anomalib "
                f"{1000 * peer:.0f} ms, ratio {peer / mine:.1f}"
            )
    write_result(given.json, figures, "anomalib")


if __name__ == "__main__":
    main()
