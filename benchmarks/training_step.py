"""Times a training step of Dinomaly in meds against anomalib's Dinomaly, which runs the encoder at every step.

    python benchmarks/training_step.py [--model small|base] [--image-size 392] [--batch-size 16] [--dropout P]
        [--peer-autocast] [--json FILE]

Random weights on both sides. The peer is anomalib's own model, optimiser (StableAdamW) and clipping, encoder and
decoder in float32 as it comes, which is also how the students' published code trains, or, if asked, under autocast in
bf16. Both run on the GPU where there is one. In meds the encoder has run
once for each image before the training, and its features come from the cache; that time is printed beside the step.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from surroundings import random_encoders, write_result

from meds.core.checkpoint import Checkpoints
from meds.core.context import stage_context
from meds.core.epochs import AllImages, TrainingLength
from meds.core.extract import extract_features
from meds.core.pipeline import Pipeline
from meds.core.registry import registry
from meds.core.reporter import SilentReporter
from meds.core.runtime import wait_for_device
from meds.core.spec import resolve_spec
from meds.core.spec_source import SpecSource
from meds.core.training import train
from meds.stages.fit import own_objective

MODELS = {"small": "vit_small_patch14_dinov2", "base": "vit_base_patch14_dinov2"}


class _EnoughError(Exception):
    """All losses that were asked for are there."""


class Meds:
    """Dinomaly on drawn images; features are extracted in the constructor."""

    def __init__(self, given: argparse.Namespace, precision: str) -> None:
        spec = {
            "name": "training-step",
            "precision": precision,
            "dataset": {"type": "synthetic", "classes": ["weave"], "train": 2 * given.batch_size, "test_normal": 1}
            | {"test_defective": 1, "image_size": given.image_size},
            "backbone": {"type": "timm", "model": MODELS[given.model], "pretrained": False}
            | {"image_size": given.image_size},
            "student": {"type": "dinomaly"} | ({} if given.dropout is None else {"dropout": given.dropout}),
            "stages": [{"type": "fit", "iterations": 1}],
        }
        pipeline = Pipeline(resolve_spec(SpecSource("benchmark", spec), registry()), registry())
        start = time.perf_counter()
        samples = pipeline.data.train
        extract_features(
            pipeline.dataset,
            samples,
            pipeline.backbone,
            pipeline.layers,
            pipeline.features,
            pipeline.runtime,
            SilentReporter(),
        )
        self.encoder_seconds = (time.perf_counter() - start) / len(samples)
        self.context = stage_context(pipeline, "fit")

    def losses(self, steps: int, batch_size: int, rounded: bool = False) -> tuple[list[float], list[float]]:
        """The losses of the first steps of a training, and the seconds from one step's loss to the next one's.

        The training is one of the student's own length: a shorter one would warm up faster and learn otherwise. Its
        start values are rounded to bf16 if asked.
        """
        student = self.context.new_student("all")
        if rounded:
            with torch.no_grad():
                for values in student.parameters():
                    values.copy_(values.bfloat16())
        iterations = student.training_defaults().iterations
        assert iterations is not None
        losses: list[float] = []
        times: list[float] = []
        objective = own_objective(self.context)

        def recorded(*arguments: Any) -> torch.Tensor:
            loss = objective(*arguments)
            losses.append(loss.item())
            times.append(time.perf_counter())
            if len(losses) == steps:
                raise _EnoughError
            return loss

        samples = self.context.data.train
        with tempfile.TemporaryDirectory() as work, contextlib.suppress(_EnoughError):
            checkpoints = Checkpoints(Path(work), "benchmark")
            # Their share of a training is small and known, but one of them would be much of a few steps.
            checkpoints.interval = math.inf
            train(
                self.context,
                student,
                samples,
                recorded,
                AllImages(len(samples), 0),
                TrainingLength(iterations, batch_size, True),
                checkpoints,
                "benchmark",
            )
        return losses, [after - before for before, after in itertools.pairwise(times)]


def peer_seconds(given: argparse.Namespace, steps: int, device: torch.device) -> list[float]:
    """Seconds of training steps of anomalib's Dinomaly, the first not counted."""
    from anomalib.models.image.dinomaly.components import StableAdamW
    from anomalib.models.image.dinomaly.lightning_model import TRAINING_CONFIG, Dinomaly

    with random_encoders():
        peer = Dinomaly(encoder_name=MODELS[given.model]).to(device)
    optimiser = StableAdamW([{"params": peer.trainable_modules.parameters()}], **TRAINING_CONFIG["optimizer"])
    peer.model.train()
    taken = []
    for step in range(steps + 1):
        images = torch.rand(given.batch_size, 3, given.image_size, given.image_size, device=device)
        wait_for_device()
        start = time.perf_counter()
        optimiser.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=given.peer_autocast):
            loss = peer.model(images, global_step=step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.trainable_modules.parameters(), 0.1)
        optimiser.step()
        wait_for_device()
        taken.append(time.perf_counter() - start)
    return taken[1:]


def differences(given: argparse.Namespace, found: Sequence[float]) -> dict[str, float]:
    """Largest relative differences of losses from those of the same training in float32.

    Of the losses that were found and, to see how much of it any rounding makes, of a training in float32 whose start
    values alone are rounded to bf16; each in the first 20 steps and in all.
    """
    meds = Meds(given, "fp32")
    exact, _ = meds.losses(len(found), given.batch_size)
    rounded, _ = meds.losses(len(found), given.batch_size, rounded=True)
    largest: dict[str, float] = {}
    for name, losses in (("own", found), ("rounded start", rounded)):
        apart = [abs(a - b) / abs(b) for a, b in zip(losses, exact, strict=True)]
        largest |= {f"{name}, first 20": max(apart[:20]), name: max(apart)}
    return largest


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=sorted(MODELS), default="small")
    parser.add_argument("--image-size", type=int, default=392)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each side")
    parser.add_argument("--compare-losses", type=int, default=0, help="steps to compare with float32 (slow)")
    parser.add_argument("--peer-autocast", action="store_true", help="the peer under autocast in bf16")
    parser.add_argument("--dropout", type=float, help="0 for losses on a GPU, whose masks depend on the precision")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["MEDS_HOME"] = home
        meds = Meds(given, "auto")
        losses, ours = meds.losses(max(given.steps, given.compare_losses) + 1, given.batch_size)
        apart = differences(given, losses) if given.compare_losses else {}
    theirs = peer_seconds(given, given.steps, meds.context.runtime.device)
    step, peer = sorted(ours)[len(ours) // 2], sorted(theirs)[len(theirs) // 2]
    what = f"Dinomaly, ViT-{given.model}, {given.image_size}x{given.image_size}, batches of {given.batch_size}"
    print(f"{what}: meds {step:.2f} s a step ({meds.context.runtime.precision}), anomalib {peer:.2f} s")
    print(f"ratio {peer / step:.1f}; the encoder took meds {meds.encoder_seconds:.3f} s an image, once")
    for name, difference in apart.items():
        print(f"losses of {given.compare_losses} steps, {name}: at most {100 * difference:.2f} % from float32")
    figures = {"what": what, "meds_seconds": step, "peer_seconds": peer, "ratio": peer / step}
    figures |= {"encoder_seconds_an_image": meds.encoder_seconds, "largest_loss_differences": apart}
    write_result(given.json, figures, "anomalib")


if __name__ == "__main__":
    main()
