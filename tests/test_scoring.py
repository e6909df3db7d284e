"""Score maps, their smoothing and image scores against literal loops and scipy."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.ndimage import gaussian_filter
from torch import Tensor

from meds.core import scoring
from meds.core.model import EvaluationDefaults
from meds.core.selection import robust_maximum

GOLDEN = load_file(Path(__file__).parent / "golden" / "rd_detail.safetensors")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bilinear(image: np.ndarray[Any, Any], size: int, align_corners: bool) -> np.ndarray[Any, Any]:
    """A square image resized pixel by pixel."""
    side = len(image)
    result = np.zeros((size, size))
    for target in product(range(size), repeat=2):
        if align_corners:
            source = [place * (side - 1) / (size - 1) for place in target]
        else:
            source = [min(max((place + 0.5) * side / size - 0.5, 0), side - 1) for place in target]
        for corner in product((0, 1), repeat=2):
            places = [min(math.floor(s) + c, side - 1) for s, c in zip(source, corner, strict=True)]
            shares = [s % 1 if c else 1 - s % 1 for s, c in zip(source, corner, strict=True)]
            result[target] += math.prod(shares) * image[tuple(places)]
    return result


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_score_map_is_the_mean_over_groups_on_the_finest_grid(distance: Any) -> None:
    targets = [drawn(2, 5, 3, 3, seed=1), drawn(2, 7, 6, 6, seed=2)]
    outputs = [drawn(2, 5, 3, 3, seed=3), drawn(2, 7, 6, 6, seed=4)]
    result = scoring.score_map(targets, outputs, distance)
    assert result.shape == (2, 6, 6)
    for image in range(2):
        maps = []
        for target, output in zip(targets, outputs, strict=True):
            a, b = target[image].double().numpy(), output[image].double().numpy()
            flat = np.zeros(a.shape[1:])
            for place in product(range(len(flat)), repeat=2):
                p, q = (v[(slice(None), *place)] / np.linalg.norm(v[(slice(None), *place)]) for v in (a, b))
                flat[place] = 1 - p @ q if distance == "cosine" else np.linalg.norm(p - q)
            maps.append(bilinear(flat, 6, align_corners=False))
        np.testing.assert_allclose(result[image], np.mean(maps, axis=0), atol=1e-6)


def test_distances_of_a_cosine() -> None:
    cosines = torch.tensor([1.0, 0.5, 0.0, -1.0, 1.0000001])
    torch.testing.assert_close(scoring.from_cosine(cosines, "cosine"), torch.tensor([0.0, 0.5, 1.0, 2.0, 0.0]))
    euclidean = scoring.from_cosine(cosines, "euclidean")
    torch.testing.assert_close(euclidean, torch.tensor([0.0, 1.0, 2**0.5, 2.0, 0.0]), atol=1e-5, rtol=0)


def test_the_slope_of_a_distance_is_finite_where_the_maps_agree() -> None:
    for distance in ("cosine", "euclidean"):
        cosines = torch.ones(3, requires_grad=True)
        scoring.from_cosine(cosines, distance).sum().backward()
        assert torch.isfinite(cosines.grad).all()


@pytest.mark.parametrize("size", [3, 8, 15, 16, 17, 33, 64])
def test_gaussian_smoothing_is_that_of_scipy(size: int) -> None:
    maps = drawn(2, size, size + 2)
    smoothed = scoring.smooth(maps, EvaluationDefaults(smoothing="gaussian", sigma=4))
    wanted = np.stack([gaussian_filter(image.double().numpy(), sigma=4) for image in maps])
    np.testing.assert_allclose(smoothed, wanted, atol=2e-6)


def test_gaussian5_is_a_five_by_five_kernel_with_zeros_outside() -> None:
    maps = drawn(1, 7, 7)
    smoothed = scoring.smooth(maps, EvaluationDefaults(smoothing="gaussian5", sigma=1.5))
    steps = range(-2, 3)
    kernel = {(a, b): math.exp(-(a * a + b * b) / (2 * 1.5**2)) for a, b in product(steps, repeat=2)}
    whole = sum(kernel.values())
    for row, column in product(range(7), repeat=2):
        wanted = 0.0
        for (a, b), weight in kernel.items():
            if 0 <= row + a < 7 and 0 <= column + b < 7:
                wanted += weight / whole * maps[0, row + a, column + b].item()
        assert smoothed[0, row, column].item() == pytest.approx(wanted, abs=1e-6)


def test_no_smoothing_changes_nothing() -> None:
    maps = drawn(2, 5, 5)
    assert torch.equal(scoring.smooth(maps, EvaluationDefaults(smoothing="none")), maps)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("resize", [None, 6])
def test_pixel_map_resizes_each_group_then_the_mean(resize: int | None, align_corners: bool) -> None:
    groups = [drawn(1, 4, 4, seed=1), drawn(1, 2, 2, seed=2)]
    how = EvaluationDefaults(map_size=9, resize=resize, align_corners=align_corners)
    mean = np.mean([bilinear(g[0].double().numpy(), resize or 9, align_corners) for g in groups], axis=0)
    wanted = mean if resize is None else bilinear(mean, 9, align_corners=False)
    np.testing.assert_allclose(scoring.pixel_map(groups, how)[0], wanted, atol=1e-6)


def test_pixel_map_can_keep_the_steps_of_the_patches() -> None:
    groups = [drawn(1, 2, 2, seed=1), drawn(1, 3, 3, seed=2)]
    how = EvaluationDefaults(map_size=12, resize=6, upsampling="nearest")
    wanted = np.mean([np.kron(g[0].numpy(), np.ones((12 // len(g[0]),) * 2)) for g in groups], axis=0)
    np.testing.assert_allclose(scoring.pixel_map(groups, how)[0], wanted, atol=1e-6)


def test_image_score_is_the_maximum_or_the_mean_of_the_largest() -> None:
    maps = torch.arange(200.0).reshape(2, 10, 10)
    assert scoring.image_scores(maps, EvaluationDefaults(image_score="max")).tolist() == [99, 199]
    top = EvaluationDefaults(image_score="top", top_fraction=0.035)
    assert scoring.image_scores(maps, top).tolist() == [98, 198]
    assert scoring.image_scores(maps, EvaluationDefaults(image_score="top", top_fraction=0.001)).tolist() == [99, 199]
    # 0.29 * 100 is 28.999999999999996 in floating point.
    top = EvaluationDefaults(image_score="top", top_fraction=0.29)
    assert scoring.image_scores(maps, top).tolist() == [85, 185]


@pytest.mark.parametrize(("rounding", "count"), [("ceil", 8), ("floor", 7)])
def test_robust_maximum_of_784_patches(rounding: Any, count: int) -> None:
    maps = drawn(3, 28, 28)
    largest = np.sort(maps.numpy().reshape(3, -1), axis=1)[:, -count:]
    np.testing.assert_allclose(robust_maximum(maps, 1.0, rounding), largest.mean(axis=1), rtol=1e-6)


def test_robust_maximum_takes_one_patch_at_least_and_all_at_most() -> None:
    maps = torch.arange(9.0).reshape(1, 3, 3)
    assert robust_maximum(maps, 1.0, "floor").tolist() == [8]
    assert robust_maximum(maps, 100.0).tolist() == [4]


def test_maps_of_the_published_reverse_distillation() -> None:
    """The published code sums the three scales, meds takes their mean: a third."""
    how = EvaluationDefaults(map_size=96)
    distances = [GOLDEN[f"output.eval.distance.{i}"] for i in range(3)]
    whole = scoring.pixel_map(distances, how)
    smoothed = scoring.smooth(whole, how)
    torch.testing.assert_close(3 * whole, GOLDEN["output.eval.map"].reshape(whole.shape), atol=1e-5, rtol=1e-5)
    wanted = GOLDEN["output.eval.map_smoothed"].reshape(whole.shape)
    torch.testing.assert_close(3 * smoothed, wanted, atol=1e-5, rtol=1e-5)
    scores = 3 * scoring.image_scores(smoothed, how)
    torch.testing.assert_close(scores, GOLDEN["output.eval.image_score"], atol=1e-5, rtol=1e-5, check_dtype=False)


def test_recorded_distances_come_out_of_the_recorded_maps() -> None:
    for i in range(3):
        target, output = GOLDEN[f"input.feature.{i}"], GOLDEN[f"output.eval.decoder.{i}"]
        wanted = GOLDEN[f"output.eval.distance.{i}"]
        torch.testing.assert_close(scoring.patch_distance(target, output), wanted, atol=1e-6, rtol=1e-5)
