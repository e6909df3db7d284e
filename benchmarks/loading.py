"""Measures whether reading images keeps up with the encoder: files to features, against what the parts take alone.

    python benchmarks/loading.py [--encoder efficientnet-lite0|vit_small_patch14_dinov2] [--images 192] [--json FILE]

Drawn images are written as PNG files of 1024². Their decoding and resizing alone (on all cores), the encoder alone (on
images in memory), writing alone, and then the whole as a run does it. On a processor all parts share the cores, so the
sum of the parts is the floor of the whole; time beyond it is time in which the encoder starved or a core lay idle.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from surroundings import write_result

from meds.core.extract import encode, extract_features, load_image
from meds.core.feature_cache import SHARD_IMAGES, FeatureCache
from meds.core.pipeline import Pipeline
from meds.core.registry import registry
from meds.core.reporter import SilentReporter
from meds.core.runtime import CostMeter
from meds.core.spec import resolve_spec
from meds.core.spec_source import SpecSource
from meds.plugins.datasets.synthetic import SyntheticDataset, SyntheticOptions

ENCODERS = {
    "efficientnet-lite0": ({"type": "efficientnet-lite0", "pretrained": False, "image_size": 224}, "rd"),
    "vit_small_patch14_dinov2": (
        {"type": "timm", "model": "vit_small_patch14_dinov2", "pretrained": False, "image_size": 392},
        "dinomaly",
    ),
}


def draw_files(folder: Path, count: int, size: int) -> None:
    """Drawn images as PNG files; every 16th is drawn, the others are moved copies of it."""
    dataset = SyntheticDataset(SyntheticOptions(classes=["weave"], train=max(2, count // 16 + 1), image_size=size))
    records = dataset.records()
    for number in range(count):
        if number % 16 == 0:
            image = torch.from_numpy(dataset.read_image(records[number // 16]))
        moved = image.roll((7 * number, 3 * number), (0, 1))
        Image.fromarray(moved.numpy()).save(folder / f"{number:04}.png", compress_level=3)


def pipeline_of(folder: Path, encoder: str) -> Pipeline:
    """A plain spec over the files."""
    backbone, student = ENCODERS[encoder]
    spec = {
        "name": "loading",
        "dataset": {"type": "folder", "path": str(folder)},
        "backbone": backbone,
        "student": {"type": student},
        "stages": [{"type": "fit", "iterations": 1}],
    }
    return Pipeline(resolve_spec(SpecSource("benchmark", spec), registry()), registry())


def parts_alone(pipeline: Pipeline) -> dict[str, float]:
    """Seconds that all images take in each part alone."""
    samples, runtime, backbone = pipeline.data.train, pipeline.runtime, pipeline.backbone
    start = time.perf_counter()
    with ThreadPoolExecutor(runtime.threads) as pool:
        images = list(pool.map(lambda sample: load_image(pipeline.dataset, sample, backbone), samples))
    found = {"decoding": time.perf_counter() - start}
    encode(backbone, torch.stack(images[:SHARD_IMAGES]), pipeline.layers, runtime)
    encoding = writing = 0.0
    with tempfile.TemporaryDirectory() as place:
        cache = FeatureCache(Path(place), "alone", 2**40)
        for first in range(0, len(samples), SHARD_IMAGES):
            group = samples[first : first + SHARD_IMAGES]
            start = time.perf_counter()
            maps = encode(backbone, torch.stack(images[first : first + SHARD_IMAGES]), pipeline.layers, runtime)
            encoding += time.perf_counter() - start
            start = time.perf_counter()
            for name, values in zip(pipeline.layers, maps, strict=True):
                cache.write([sample.digest for sample in group], name, values)
            writing += time.perf_counter() - start
    return found | {"encoder": encoding, "writing": writing}


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--encoder", choices=sorted(ENCODERS), default="efficientnet-lite0")
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--size", type=int, default=1024, help="side of the files in pixels")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ["MEDS_HOME"] = str(Path(place) / "home")
        folder = Path(place) / "images"
        folder.mkdir()
        draw_files(folder, given.images, given.size)
        pipeline = pipeline_of(folder, given.encoder)
        parts = parts_alone(pipeline)
        samples = pipeline.data.train
        meter = CostMeter(pipeline.runtime.device)
        arguments = (pipeline.backbone, pipeline.layers, pipeline.features, pipeline.runtime, SilentReporter())
        extract_features(pipeline.dataset, samples, *arguments)
        cost = meter.stop()
    floor = sum(parts.values())
    figures: dict[str, Any] = {"encoder": given.encoder, "images": len(samples), "size": given.size, "alone": parts}
    figures |= {"whole": cost["wall_s"], "whole_over_parts": cost["wall_s"] / floor}
    figures["cores_busy"] = cost["cpu_s"] / cost["wall_s"]
    for name, seconds in parts.items():
        print(f"{name + ' alone':18}{seconds:8.2f} s{len(samples) / seconds:8.1f} images a second")
    print(
        f"{'whole':18}{cost['wall_s']:8.2f} s{len(samples) / cost['wall_s']:8.1f} images a second, "
        f"{figures['whole_over_parts']:.2f} times the parts, {figures['cores_busy']:.2f} cores busy"
    )
    write_result(given.json, figures)


if __name__ == "__main__":
    main()
