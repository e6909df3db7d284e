"""The figures of a run against scikit-learn, slow obvious references, and stored reference values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load_file
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from meds.core.metrics import image_metrics, mean_metrics, pixel_metrics, ranking_metrics

GOLDEN = load_file(Path(__file__).parent / "golden" / "metrics.safetensors")
KINDS = ("smooth", "ties", "weak")
PIXEL_NAMES = ("pixel_auroc", "pixel_ap", "pixel_f1max", "pixel_aupro")


def f1max_by_loop(scores: np.ndarray, truth: np.ndarray) -> float:
    best = 0.0
    for threshold in np.unique(scores):
        found = scores >= threshold
        best = max(best, 2 * np.sum(found & truth) / (np.sum(found) + np.sum(truth)))
    return float(best)


def aupro_by_loop(maps: np.ndarray, masks: np.ndarray, limit: float, structure: np.ndarray) -> float:
    regions = []
    for index, mask in enumerate(masks):
        labels, count = ndimage.label(mask, structure=structure)
        regions += [(index, labels == number) for number in range(1, count + 1)]
    area, rate, overlap = 0.0, 0.0, 0.0
    for threshold in np.unique(maps)[::-1]:
        found = maps >= threshold
        new_rate = np.sum(found & ~masks) / np.sum(~masks)
        new_overlap = np.mean([found[index][region].mean() for index, region in regions])
        if new_rate >= limit:
            at_limit = overlap + (new_overlap - overlap) * (limit - rate) / (new_rate - rate)
            return float(area + (limit - rate) * (overlap + at_limit) / 2) / limit
        area += (new_rate - rate) * (overlap + new_overlap) / 2
        rate, overlap = new_rate, new_overlap
    raise AssertionError("the curve ends at a rate of 1, which no limit exceeds")


@st.composite
def maps_and_masks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)))
    levels = draw(st.sampled_from([1, 2, 4, 1000]))
    steps = draw(arrays.arrays(np.int64, shape, elements=st.integers(-levels, levels)))
    masks = draw(arrays.arrays(np.bool_, shape))
    return (steps / 7).astype(np.float32), masks


@settings(max_examples=300, deadline=None)
@given(maps_and_masks(), st.sampled_from([0.05, 0.3, 0.5, 1.0]), st.sampled_from([1, 2, 7]))
def test_pixel_figures_equal_slow_references(case: tuple[np.ndarray, np.ndarray], limit: float, threads: int) -> None:
    maps, masks = case
    figures = pixel_metrics(maps, masks, limit, threads)
    assert tuple(figures) == PIXEL_NAMES
    if masks.all() or not masks.any():
        assert set(figures.values()) == {None}
        return
    scores, truth = maps.ravel(), masks.ravel()
    expected = (
        roc_auc_score(truth, scores),
        average_precision_score(truth, scores),
        f1max_by_loop(scores, truth),
        aupro_by_loop(maps, masks, limit, np.ones((3, 3))),
    )
    assert tuple(figures.values()) == pytest.approx(expected, abs=1e-12)


def test_pixel_figures_on_continuous_maps_equal_slow_references() -> None:
    generator = np.random.default_rng(3)
    masks = ndimage.binary_dilation(generator.random((4, 16, 16)) < 0.03, np.ones((1, 3, 3)))
    maps = (generator.standard_normal((4, 16, 16)) + masks).astype(np.float32)
    figures = pixel_metrics(maps, masks)
    assert figures["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-12)
    assert figures["pixel_ap"] == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), abs=1e-12)
    assert figures["pixel_f1max"] == pytest.approx(f1max_by_loop(maps.ravel(), masks.ravel()), abs=1e-12)
    assert figures["pixel_aupro"] == pytest.approx(aupro_by_loop(maps, masks, 0.3, np.ones((3, 3))), abs=1e-12)


def test_pixel_figures_of_extreme_scores_equal_slow_references() -> None:
    smallest = np.finfo(np.float32).smallest_subnormal
    values = np.array([0.0, -0.0, smallest, -smallest, 1e37, -1e37, 1.0, -1.0], np.float32)
    generator = np.random.default_rng(4)
    maps, masks = generator.choice(values, (3, 8, 8)), generator.random((3, 8, 8)) < 0.5
    figures = pixel_metrics(maps, masks, threads=2)
    assert figures == pytest.approx(pixel_metrics(maps.astype(np.float64), masks), abs=1e-12)
    assert figures["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-12)
    assert figures["pixel_aupro"] == pytest.approx(aupro_by_loop(maps, masks, 0.3, np.ones((3, 3))), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_pixel_figures_equal_stored_values(kind: str) -> None:
    maps, masks = GOLDEN[f"input.{kind}.maps"], GOLDEN[f"input.{kind}.masks"]
    figures = pixel_metrics(maps, masks)
    assert figures["pixel_auroc"] == pytest.approx(GOLDEN[f"output.{kind}.P-AUROC"].item(), abs=1e-9)
    assert figures["pixel_ap"] == pytest.approx(GOLDEN[f"output.{kind}.P-AP"].item(), abs=1e-9)
    # The stored F1-max has 1e-7 in its denominator.
    assert figures["pixel_f1max"] == pytest.approx(GOLDEN[f"output.{kind}.P-F1max"].item(), abs=1e-6)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_exact_aupro_equals_stored_values(kind: str, limit: float) -> None:
    figures = pixel_metrics(GOLDEN[f"input.{kind}.maps"], GOLDEN[f"input.{kind}.masks"], limit)
    expected = GOLDEN[f"output.{kind}.AUPRO-exact-{limit}"].item()
    assert figures["pixel_aupro"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_image_figures_equal_stored_values(kind: str) -> None:
    figures = image_metrics(GOLDEN[f"input.{kind}.image_scores"], GOLDEN[f"input.{kind}.image_labels"])
    assert figures["image_auroc"] == pytest.approx(GOLDEN[f"output.{kind}.I-AUROC"].item(), abs=1e-9)
    assert figures["image_ap"] == pytest.approx(GOLDEN[f"output.{kind}.I-AP"].item(), abs=1e-9)
    assert figures["image_f1max"] == pytest.approx(GOLDEN[f"output.{kind}.I-F1max"].item(), abs=1e-6)


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    masks = np.zeros((1, 6, 6), bool)
    masks[0, 0, 0] = masks[0, 1:4, 1:4] = True
    maps = np.zeros((1, 6, 6), np.float32)
    maps[0, 0, 0] = 1.0
    # One found pixel of a region of ten; as two regions it would be one half.
    with_corners = aupro_by_loop(maps, masks, 0.3, np.ones((3, 3)))
    without = aupro_by_loop(maps, masks, 0.3, ndimage.generate_binary_structure(2, 1))
    assert with_corners != pytest.approx(without, abs=0.1)
    assert pixel_metrics(maps, masks)["pixel_aupro"] == pytest.approx(with_corners, abs=1e-12)


def test_small_regions_count_as_much_as_large_ones() -> None:
    masks = np.zeros((2, 8, 8), bool)
    masks[0, :4, :4] = masks[1, 7, 7] = True
    maps = np.zeros((2, 8, 8), np.float32)
    maps[0, :4, :4] = 1.0
    # The large region is found at once, the small one only with all normal pixels: 0.5 + 0.5 x rate.
    assert pixel_metrics(maps, masks, 1.0)["pixel_aupro"] == pytest.approx(0.75, abs=1e-12)


def test_perfect_and_reversed_maps() -> None:
    masks = np.zeros((1, 4, 4), bool)
    masks[0, 1, 1:3] = True
    assert tuple(pixel_metrics(masks.astype(np.float32), masks).values()) == (1.0, 1.0, 1.0, 1.0)
    reversed_figures = pixel_metrics(-masks.astype(np.float32), masks)
    assert reversed_figures["pixel_auroc"] == 0.0
    assert reversed_figures["pixel_aupro"] == 0.0
    assert reversed_figures["pixel_ap"] == pytest.approx(2 / 16)


def test_arguments_are_left_as_they_were() -> None:
    maps, masks = GOLDEN["input.ties.maps"].copy(), GOLDEN["input.ties.masks"].copy()
    pixel_metrics(maps, masks)
    assert np.array_equal(maps, GOLDEN["input.ties.maps"])
    assert np.array_equal(masks, GOLDEN["input.ties.masks"])


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=20))
@settings(deadline=None)
def test_image_figures_equal_references(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in pairs], float)
    truth = np.array([label for _, label in pairs], bool)
    figures = image_metrics(scores, truth.astype(int))
    if truth.all() or not truth.any():
        assert figures == {"image_auroc": None, "image_ap": None, "image_f1max": None}
        return
    expected = (
        roc_auc_score(truth, scores),
        average_precision_score(truth, scores),
        f1max_by_loop(scores, truth),
    )
    assert tuple(figures.values()) == pytest.approx(expected, abs=1e-12)


def test_inspection_depth_of_a_perfect_ranking_is_the_contaminated_share() -> None:
    wanted = np.arange(272) < 63
    figures = ranking_metrics(wanted.astype(float), wanted)
    assert figures == {"auroc": 1.0, "auprc": 1.0, "inspection_depth": 63 / 272}


def test_inspection_depth_reaches_the_last_contaminated_image() -> None:
    figures = ranking_metrics([5, 4, 3, 2, 1], [True, False, False, True, False])
    assert figures["inspection_depth"] == 4 / 5
    assert figures["auroc"] == pytest.approx(4 / 6)
    assert figures["auprc"] == pytest.approx((1 + 2 / 4) / 2)


def test_equal_scores_count_against_the_ranking() -> None:
    assert ranking_metrics([2, 1, 1, 0], [True, True, False, False])["inspection_depth"] == 3 / 4


def test_ranking_without_contaminated_or_without_clean_images() -> None:
    assert ranking_metrics([1, 2], [False, False]) == {"auroc": None, "auprc": None, "inspection_depth": None}
    assert ranking_metrics([1, 2], [True, True]) == {"auroc": None, "auprc": None, "inspection_depth": 1.0}


def test_mean_ignores_undefined_figures() -> None:
    per_class = {"a": {"x": 0.5, "y": None, "z": None}, "b": {"x": 1.0, "y": 0.25, "z": None}}
    assert mean_metrics(per_class) == {"x": 0.75, "y": 0.25, "z": None}
    assert mean_metrics({}) == {}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="1 of 2 scores are not finite"):
        image_metrics([bad, 1.0], [0, 1])
    with pytest.raises(ValueError, match="1 of 2 scores are not finite"):
        ranking_metrics([bad, 1.0], [True, True])
    maps = np.zeros((1, 2, 2), np.float32)
    maps[0, 0, 0] = bad
    with pytest.raises(ValueError, match="1 of 4 scores are not finite"):
        pixel_metrics(maps, np.zeros((1, 2, 2), bool))


def test_shapes_labels_and_limits_are_checked() -> None:
    maps, masks = np.zeros((1, 2, 2), np.float32), np.zeros((1, 2, 2), bool)
    with pytest.raises(ValueError, match="one length"):
        image_metrics([1.0, 2.0], [1])
    with pytest.raises(ValueError, match="Labels must be"):
        image_metrics([1.0, 2.0], [0, 2])
    with pytest.raises(ValueError, match="must both be"):
        pixel_metrics(maps, masks[0])
    for limit in (0.0, 1.5):
        with pytest.raises(ValueError, match="limit"):
            pixel_metrics(maps, masks, limit)
