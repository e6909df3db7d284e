"""Derives what the published data sets need with DINOv2 ViT-B/14 at 392 x 392 and Dinomaly: docs/scaling.md.

    python benchmarks/scale.py [--json FILE]

Operations and bytes are counted on the networks themselves, and the unit costs of this machine are timed, both with
random weights. The times on a GPU are those operations over published peak rates and an assumed utilisation: derived,
not measured. Counts of steps, passes and pairs come from `meds.core.workload`, as in `meds plan`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from surroundings import write_result
from torch.utils.flop_counter import FlopCounterMode

from meds.core.context import stage_context
from meds.core.extract import encode, encoder_input, extract_features, load_image
from meds.core.feature_cache import bytes_per_image
from meds.core.images import read_rgb
from meds.core.pipeline import Pipeline
from meds.core.registry import registry
from meds.core.reporter import SilentReporter
from meds.core.spec import resolve_spec
from meds.core.spec_source import SpecSource
from meds.core.stage import StageContext
from meds.core.student import Progress
from meds.core.timing import seconds_of, step_seconds
from meds.core.workload import image_pairs, interval_of_enough_passes, memory_bytes, scoring_passes
from meds.stages.class_memory import ClassMemory
from meds.stages.fit import own_objective
from meds.stages.options import MemoryOptions, SelectFinetuneOptions
from meds.stages.scoring_pass import training_scores

# The memory compares both groups of Dinomaly's teacher maps.
BATCH, PATCHES, CHANNELS = 16, 28 * 28, 2 * 768
SEARCHED_IMAGES = 32
HOST_CORES = 16
SPEC: dict[str, Any] = {
    "name": "scale",
    "dataset": {"type": "synthetic", "classes": ["weave"], "train": 32, "test_normal": 1, "test_defective": 1}
    | {"image_size": 392},
    "backbone": {"type": "timm", "model": "vit_base_patch14_reg4_dinov2.lvd142m", "pretrained": False}
    | {"image_size": 392},
    "student": {"type": "dinomaly"},
    "stages": [{"type": "memory"}, {"type": "distill"}, {"type": "select-finetune"}],
}


@dataclass(frozen=True)
class DataSet:
    """Training images of each class, test images of all, and the published number of iterations."""

    name: str
    classes: tuple[int, ...]
    test: int
    iterations: int


DATA_SETS = (
    DataSet(
        "MVTec AD", (209, 224, 219, 280, 264, 391, 245, 220, 267, 320, 230, 60, 213, 247, 240), 1725, 10_000
    ),  # bottle, cable, capsule, carpet, grid, ...
    DataSet("VisA", (900, 542, 450, 453, 450, 900, 900, 904, 901, 905, 904, 450), 2162, 10_000),
    # Only the sums are known here: classes of equal size are assumed.
    DataSet("Real-IAD", (1216,) * 15 + (1215,) * 15, 114_585, 50_000),
)


@dataclass(frozen=True)
class Accelerator:
    """Published peak rates of a GPU, and which part of them each piece of work is assumed to reach."""

    name: str
    operations: float
    memory_traffic: float
    encoder: float = 0.4
    training: float = 0.25
    search: float = 0.5
    launch_seconds: float = 10e-6


H100 = Accelerator("H100 SXM", 989e12, 3.35e12)


def count(context: StageContext, pipeline: Pipeline) -> dict[str, float]:
    """Operations an image and parameters; bytes that autograd keeps for a step."""
    image = load_image(pipeline.dataset, context.data.train[0], pipeline.backbone)[None]
    with FlopCounterMode(display=False) as counter:
        encode(pipeline.backbone, image, pipeline.layers, pipeline.runtime)
    found = {"encoder_operations": float(counter.get_total_flops())}
    student, samples = context.new_student("scale"), list(context.data.train[:2])
    features, classes = context.read_features(samples), context.class_tensor(samples)
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        loss = own_objective(context)(student, features, [0, 1], classes, Progress(1, 2))
        forward = counter.get_total_flops()
        loss.backward()  # type: ignore[no-untyped-call]
    weights = sum(p.numel() for p in student.parameters())
    found |= {"forward_operations": forward / 2, "step_operations": counter.get_total_flops() / 2}
    found |= {"parameters": float(weights), "kept_bytes": (sum(kept.values()) - 4 * weights) / 2}
    return found


def timed(context: StageContext, pipeline: Pipeline) -> dict[str, float]:
    """Seconds of the pieces on this machine."""
    samples = context.data.train
    parts = (pipeline.backbone, pipeline.layers, pipeline.features, pipeline.runtime, SilentReporter())
    # The first image also waits for libraries to be loaded.
    extract_features(pipeline.dataset, samples[:1], *parts)
    start = time.perf_counter()
    encoded = extract_features(pipeline.dataset, samples, *parts)
    encoding = (time.perf_counter() - start) / encoded
    student = context.new_student("scale")
    options = SelectFinetuneOptions()
    drawn = torch.rand(SEARCHED_IMAGES, PATCHES, CHANNELS, device=context.runtime.device)
    vectors = torch.nn.functional.normalize(drawn, dim=-1)
    memory = ClassMemory(MemoryOptions(), vectors, (28, 28), 0, context.runtime.precision == "bf16")
    searching = seconds_of(lambda: list(memory.score_all(context.runtime.side_by_side)), 2)
    return {
        "encode": encoding,
        "read": seconds_of(lambda: stored_features(context), 3) / len(samples),
        "decode": decoding_seconds(pipeline),
        "pair": searching / image_pairs([SEARCHED_IMAGES], None),
        "score": seconds_of(lambda: training_scores(context, student, samples, "cosine", options), 2) / len(samples),
        "step": step_seconds(context, student, own_objective(context), BATCH),
    }


def stored_features(context: StageContext) -> list[torch.Tensor]:
    """The features of all images as they lie in the cache, in half precision: what the host does for a GPU."""
    digests = [sample.digest for sample in context.data.train]
    return [context.features.read(digests, name) for name in context.student_layers()]


def decoding_seconds(pipeline: Pipeline) -> float:
    """Seconds that one core decodes and resizes a PNG of 1024 x 1024 pixels, the size of MVTec AD's."""
    image = pipeline.dataset.read_image(pipeline.data.train[0].record)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.png"
        Image.fromarray(image).resize((1024, 1024), Image.Resampling.BICUBIC).save(path)
        return seconds_of(lambda: encoder_input(read_rgb(path), pipeline.backbone.preprocessing), 5)


def on_accelerator(counted: dict[str, float], gpu: Accelerator, read: float, decode: float) -> dict[str, float]:
    """The same pieces, derived: operations over the part of the peak rate, and reading features on the host."""
    rate = gpu.operations
    product = 2.0 * PATCHES**2 * CHANNELS
    # A product is written once, and read for its rows and for its columns.
    traffic = 3 * 2.0 * PATCHES**2 / gpu.memory_traffic
    blocks = 1 / (CHANNELS // 16)
    return {
        # Decoding runs beside the encoder; the slower one counts.
        "encode": max(counted["encoder_operations"] / (gpu.encoder * rate), decode / HOST_CORES),
        "read": read,
        "pair": product / (gpu.search * rate) + traffic + 5 * gpu.launch_seconds * blocks,
        # The next batch is read while the device computes; the slower one counts.
        "score": max(counted["forward_operations"] / (gpu.training * rate), read),
        "step": BATCH * max(counted["step_operations"] / (gpu.training * rate), read),
    }


def stages(data: DataSet, unit: dict[str, float], interval: int) -> dict[str, float]:
    """Seconds of every stage of a unified run with 500 iterations of distillation."""
    train = sum(data.classes)
    passes = scoring_passes(train, BATCH, data.iterations, 1.0, interval)
    return {
        "features": (train + data.test) * unit["encode"],
        "memory": image_pairs(data.classes, None) * unit["pair"] + train * unit["read"] / 2,
        "distill": 500 * unit["step"],
        "training": data.iterations * unit["step"],
        "selection": passes * train * unit["score"],
        "evaluate": (train + data.test) * unit["score"],
    }


def main() -> None:
    """Count, time, derive and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["MEDS_HOME"] = home
        pipeline = Pipeline(resolve_spec(SpecSource("benchmark", SPEC), registry()), registry())
        context = stage_context(pipeline, "select-finetune")
        here = timed(context, pipeline)
        counted = count(context, pipeline)
        stored = bytes_per_image([pipeline.backbone.layer(name) for name in pipeline.layers])
        read = bytes_per_image([pipeline.backbone.layer(name) for name in context.student_layers()])
    gpu = on_accelerator(counted, H100, here["read"], here["decode"])
    print({name: f"{value:.4g}" for name, value in counted.items()}, f"{stored=} {read=}")
    rows = []
    for place, unit in (("this machine", here), (H100.name, gpu)):
        print(place, {name: f"{value:.3g} s" for name, value in unit.items()})
        for data in DATA_SETS:
            for interval in (1, interval_of_enough_passes(sum(data.classes), BATCH, data.iterations, 1.0)):
                seconds = stages(data, unit, interval)
                rows.append({"data": data.name, "place": place, "interval": interval, **seconds})
                hours = {name: f"{value / 3600:.3g}" for name, value in seconds.items()}
                print(f"{data.name:10}{interval:3}", hours, f"{sum(seconds.values()) / 3600:.3g} h")
    for data in DATA_SETS:
        disk = stored * (sum(data.classes) + data.test)
        print(f"{data.name:10} disk {disk / 2**30:.1f} GiB, memory stage ", end="")
        print(f"{memory_bytes(max(data.classes), PATCHES, CHANNELS) / 2**30:.2f} GiB")
    write_result(given.json, {"counted": counted, "seconds": {"here": here, H100.name: gpu}, "rows": rows})


if __name__ == "__main__":
    main()
