"""The memory's scores against slow references: every bank enumerated, every distance in a loop."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import combinations, product
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stage_cases import make_context, stored
from torch import Tensor
from torch.nn import functional as F

from meds.core.runtime import Runtime
from meds.core.seeds import derive_seed
from meds.stages import memory_estimators as estimators
from meds.stages import nearest
from meds.stages.class_memory import ClassMemory, draw_candidates
from meds.stages.memory import Memory
from meds.stages.options import MemoryOptions
from meds.stages.patch_vectors import patch_vectors_of


def random_vectors(images: int, patches: int = 5, channels: int = 4, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(images, patches, channels, generator=torch.Generator().manual_seed(seed)), dim=2)


def make_memory(
    vectors: Tensor, coarse: bool = False, seed: int = 3, contents: str | None = None, **options: Any
) -> ClassMemory:
    given = MemoryOptions(**options)
    candidates = draw_candidates(given, len(vectors), seed)
    return ClassMemory(given, vectors[candidates], (1, vectors.shape[1]), seed, coarse, candidates, contents)


def distances(query: Tensor, patches: Tensor, distance: str = "cosine") -> np.ndarray[Any, Any]:
    """Distance of each query patch to each patch, float64, in loops."""
    a, b = query.double().numpy(), patches.double().numpy()
    gaps = np.array([[1 - float(p @ q) for q in b] for p in a])
    return gaps if distance == "cosine" else np.sqrt(2 * np.maximum(gaps, 0))


def image_distances(query: Tensor, vectors: Tensor, distance: str = "cosine") -> np.ndarray[Any, Any]:
    """Distance of each query patch to each image's nearest patch, float64 [Q, n]."""
    return np.stack([distances(query, image, distance).min(axis=1) for image in vectors], axis=1)


def mean_over(banks: Iterable[Sequence[int]], columns: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Mean over banks of the smallest of each bank's columns."""
    return np.mean([columns[:, list(bank)].min(axis=1) for bank in banks], axis=0)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize(("ratio", "size"), [(0.35, 2), (0.5, 3)])
@pytest.mark.parametrize("own", [2, None])
def test_exact_is_the_mean_over_all_banks(
    ratio: float, size: int, replacement: bool, distance: str, own: int | None
) -> None:
    vectors = random_vectors(6)
    query = vectors[2] if own is not None else random_vectors(1, seed=9)[0]
    candidates = [i for i in range(6) if i != own]
    banks = product(candidates, repeat=size) if replacement else combinations(candidates, size)
    scores = make_memory(vectors, ratio=ratio, replacement=replacement, distance=distance).score(query, own)
    wanted = mean_over(banks, image_distances(query, vectors, distance))
    assert scores.shape == (1, 5)
    np.testing.assert_allclose(scores[0], wanted, atol=1e-6)


@pytest.mark.parametrize(("ratio", "size"), [(0.4, 2), (0.55, 3)])
def test_an_image_may_be_its_own_neighbour_if_it_is_told_so(ratio: float, size: int) -> None:
    vectors = random_vectors(6)
    scores = make_memory(vectors, ratio=ratio, self_match=True).score(vectors[2], 2)
    columns = image_distances(vectors[2], vectors)
    np.testing.assert_allclose(columns[:, 2], 0, atol=1e-6)
    np.testing.assert_allclose(scores[0], mean_over(combinations(range(6), size), columns), atol=1e-6)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("options", [{}, {"estimator": "bootstrap", "banks": 11}, {"level": "patch"}])
def test_copies_of_an_image_serve_it_no_more_than_it_itself(options: dict[str, Any], coarse: bool) -> None:
    vectors = random_vectors(9, channels=16)
    vectors[[4, 7]] = vectors[2].clone()
    memory = make_memory(vectors, coarse, contents="abcdcefcg", ratio=0.3, **options)
    found = dict(memory.score_all(Runtime(threads=1).side_by_side))
    torch.testing.assert_close(found[2], found[4], rtol=0, atol=1e-6)
    torch.testing.assert_close(found[2], found[7], rtol=0, atol=1e-6)
    others = [0, 1, 3, 5, 6, 8]
    if options.get("level") == "patch":
        weights = estimators.order_weights(30, 9).numpy()
        wanted = np.sort(distances(vectors[2], vectors[others].flatten(0, 1)), axis=1)[:, : len(weights)] @ weights
    else:
        columns = image_distances(vectors[2], vectors)
        drawn = estimators.draw_banks(6, 3, 11, False, 3).tolist()
        banks = [[others[i] for i in bank] for bank in drawn] if options else combinations(others, 3)
        wanted = mean_over(banks, columns)
    np.testing.assert_allclose(found[2][0], wanted, atol=1e-5 if coarse else 1e-6)
    # An image that is nobody's copy has all others.
    alone = make_memory(vectors, coarse, ratio=0.3, **options).score(vectors[0], 0)
    torch.testing.assert_close(found[0], alone, rtol=0, atol=1e-6)


def test_where_all_images_are_copies_each_has_the_others() -> None:
    vectors = random_vectors(1).repeat(3, 1, 1)
    memory = make_memory(vectors, contents="aaa", ratio=0.5)
    np.testing.assert_allclose(memory.score(vectors[1], 1), 0, atol=1e-6)


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize(("ratio", "size"), [(0.25, 2), (0.375, 3)])
def test_exact_over_banks_of_patches(ratio: float, size: int, replacement: bool) -> None:
    vectors = random_vectors(3, patches=4)
    memory = make_memory(vectors, level="patch", ratio=ratio, replacement=replacement)
    columns = distances(vectors[1], vectors[[0, 2]].flatten(0, 1))
    banks = product(range(8), repeat=size) if replacement else combinations(range(8), size)
    np.testing.assert_allclose(memory.score(vectors[1], 1)[0], mean_over(banks, columns), atol=1e-6)


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize(("count", "size"), [(1, 1), (5, 2), (7, 7), (12, 1), (208, 21), (300, 3)])
def test_order_weights_are_the_exact_fractions(count: int, size: int, replacement: bool) -> None:
    if replacement:
        left = [Fraction(count - i, count) ** size for i in range(count + 1)]
    else:
        left = [Fraction(comb(count - i, size), comb(count, size)) for i in range(count + 1)]
        whole = [Fraction(comb(count - i, size - 1), comb(count, size)) for i in range(1, count + 1)]
        assert whole == [left[i] - left[i + 1] for i in range(count)]
    weights = estimators.order_weights(count, size, replacement)
    kept = len(weights)
    assert weights.sum().item() == pytest.approx(1, abs=1e-12)
    assert left[kept] <= Fraction(1, 10**6) < left[kept - 1]
    wanted = [float((left[i] - left[i + 1]) / (1 - left[kept])) for i in range(kept)]
    np.testing.assert_allclose(weights, wanted, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    ("ratio", "count", "rounding", "size"),
    [
        (0.1, 209, "round", 21),
        (0.1, 25, "round", 2),
        (0.1, 3, "round", 1),
        (0.07, 100, "ceil", 7),
        (0.1, 31, "ceil", 4),
        (1.0, 31, "round", 31),
    ],
)
def test_size_of_a_bank(ratio: float, count: int, rounding: Any, size: int) -> None:
    assert estimators.bank_size(ratio, count, rounding) == size


@pytest.mark.parametrize("level", ["image", "patch"])
@pytest.mark.parametrize("own", [4, None])
def test_bootstrap_is_the_mean_over_its_banks(level: str, own: int | None) -> None:
    vectors = random_vectors(7)
    query = vectors[4]
    memory = make_memory(vectors, level=level, ratio=0.3, estimator="bootstrap", banks=13)
    if level == "image":
        columns, size = image_distances(query, vectors), 2
        candidates = [i for i in range(7) if i != own]
        drawn = estimators.draw_banks(len(candidates), size, 13, False, 3).tolist()
        banks = [[candidates[i] for i in bank] for bank in drawn]
    else:
        others = vectors[[i for i in range(7) if i != own]].flatten(0, 1)
        columns, size = distances(query, others), round(0.3 * len(others))
        banks = estimators.draw_banks(len(others), size, 13, False, 3).tolist()
    np.testing.assert_allclose(memory.score(query, own)[0], mean_over(banks, columns), atol=1e-6)


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("own", [4, None])
def test_bootstrap_goes_to_exact_like_one_over_the_root_of_the_banks(replacement: bool, own: int | None) -> None:
    vectors = random_vectors(10)
    query = random_vectors(1, seed=9)[0] if own is None else vectors[own]
    columns = image_distances(query, vectors)
    candidates = [i for i in range(10) if i != own]
    banks = product(candidates, repeat=3) if replacement else combinations(candidates, 3)
    spread = np.std([columns[:, list(bank)].min(axis=1) for bank in banks], axis=0)
    exact = make_memory(vectors, ratio=0.3, replacement=replacement).score(query, own)[0].numpy()
    errors = {}
    for count in (100, 1600):
        options = {"ratio": 0.3, "replacement": replacement, "estimator": "bootstrap", "banks": count}
        gaps = [make_memory(vectors, seed=s, **options).score(query, own)[0].numpy() - exact for s in range(8)]
        assert (np.abs(gaps) < 5 * spread / np.sqrt(count)).all()
        errors[count] = np.sqrt(np.mean(np.square(gaps)))
    assert 2 < errors[100] / errors[1600] < 8


def test_a_full_memory_is_the_nearest_neighbour() -> None:
    vectors = random_vectors(6)
    nearest = distances(vectors[0], vectors[1:].flatten(0, 1)).min(axis=1)
    for level in ("image", "patch"):
        scores = make_memory(vectors, ratio=1.0, level=level).score(vectors[0], 0)[0]
        np.testing.assert_allclose(scores, nearest, atol=1e-6)
        euclidean = make_memory(vectors, ratio=1.0, level=level, distance="euclidean").score(vectors[0], 0)[0]
        np.testing.assert_allclose(euclidean, np.sqrt(2 * nearest), atol=1e-6)


@pytest.mark.parametrize(("twins", "most"), [(1, 1e-3), (5, 4e-3)])
def test_coarse_search_agrees_with_the_exact_one(twins: int, most: float) -> None:
    """`twins` patches of an image lie in one cluster, where bf16 cannot always tell which is the nearest."""
    centres = random_vectors(1, patches=4, channels=32).repeat(1, twins, 1)
    noise = torch.randn(30, 4 * twins, 32, generator=torch.Generator().manual_seed(1))
    vectors = F.normalize(centres + 0.05 * noise, dim=2)
    exact, found = (
        torch.stack([memory.score(image, own) for own, image in enumerate(vectors)])
        for memory in (make_memory(vectors), make_memory(vectors, coarse=True))
    )
    torch.testing.assert_close(found, exact, rtol=most, atol=0)
    assert found.mean().item() == pytest.approx(exact.mean().item(), rel=3e-4)
    assert (found > exact - 1e-6).all(), "a coarse search may miss the nearest patch but never invent a nearer one"


def test_coarse_search_tells_patches_apart_that_are_very_near() -> None:
    """As in a ViT's last layer, where an image's patches are nearer to each other than bf16 can tell by cosines."""
    noise = torch.randn(30, 40, 32, generator=torch.Generator().manual_seed(1))
    vectors = F.normalize(random_vectors(1, patches=1, channels=32) + 0.004 * noise, dim=2)
    exact, found = (
        torch.stack([memory.score(image, own) for own, image in enumerate(vectors)])
        for memory in (make_memory(vectors), make_memory(vectors, coarse=True))
    )
    assert exact.mean().item() < 3e-4
    torch.testing.assert_close(found, exact, rtol=0.02, atol=0)
    assert found.mean().item() == pytest.approx(exact.mean().item(), rel=4e-3)


def test_comparisons_for_an_accelerator_are_those_for_a_processor() -> None:
    vectors = random_vectors(6, patches=40, channels=32).flatten(0, 1)
    query, places = vectors[:40], torch.randint(0, len(vectors), (40, 7), generator=torch.Generator().manual_seed(5))
    wanted = torch.stack([vectors[rows] @ patch for rows, patch in zip(places, query, strict=True)])
    torch.testing.assert_close(nearest._compare_on_cpu(vectors, query, places), wanted)
    torch.testing.assert_close(nearest._compare_in_blocks(vectors, query, places), wanted)


def test_the_largest_by_integers_is_the_largest() -> None:
    products = -torch.rand(5, 3, 50, generator=torch.Generator().manual_seed(6)) - 0.004
    for values in (products.bfloat16(), products):
        found, places = nearest.largest(values)
        torch.testing.assert_close(found, values.amax(dim=2))
        torch.testing.assert_close(values.gather(2, places[..., None])[..., 0], found)


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 7, 50])
def test_vectors_converted_in_blocks_are_the_same_bits(rows: int, left: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = F.normalize(torch.randn(rows, 37, generator=torch.Generator().manual_seed(rows)), dim=1)
    at_once = nearest._in_bf16(vectors, left)
    for block in (1, 37 * 3, 37 * 16):
        monkeypatch.setattr(nearest, "_CONVERTED_ELEMENTS", block)
        assert torch.equal(nearest._in_bf16(vectors, left).view(torch.int16), at_once.view(torch.int16))
    assert nearest.copied_bytes(37, coarse=True) == at_once.shape[1] * 2
    assert nearest.copied_bytes(37, coarse=False) == 0


@pytest.mark.parametrize("max_images", [None, 5])
def test_threads_find_the_copy_for_the_search_made(
    max_images: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    columns = nearest.PatchIndex.columns

    def watched(index: nearest.PatchIndex, vectors: Tensor) -> Tensor:
        if len(vectors) > index.patches:  # all vectors, not an image's
            made.append(threading.get_ident())
        return columns(index, vectors)

    monkeypatch.setattr(nearest.PatchIndex, "columns", watched)
    features = torch.randn(12, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    context = make_context([features], ["tile"] * 12, tmp_path)
    context.runtime = Runtime("cpu", "bf16", 2)
    stage = Memory(MemoryOptions(features="final", pooling=1, max_images=max_images))
    stage.run(context)
    assert made == [threading.get_ident()] * (max_images is not None), "the search of an index in itself needs none"
    made.clear()
    artifact = stored(**load_file(context.output.folder / "scores.safetensors"))
    stage.scorer(context, artifact).scores([features], torch.zeros(12, dtype=torch.int64))
    assert made == [threading.get_ident()]


@pytest.mark.parametrize("level", ["image", "patch"])
def test_images_that_are_no_candidates_are_scored_like_the_others(level: str, tmp_path: Path) -> None:
    """More of them than are read at a time, in an order of their own."""
    features = torch.randn(80, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    context = make_context([features], ["tile"] * 80, tmp_path)
    stage = Memory(MemoryOptions(ratio=0.3, features="final", pooling=1, max_images=7, level=level))
    stage.run(context)
    written = load_file(context.output.folder / "scores.safetensors")
    vectors, grid = stage.patch_vectors(context, context.data.train)
    seed = derive_seed(context.seed, "memory", "tile")
    candidates = draw_candidates(stage.options, 80, seed)
    assert written["candidates"].tolist() == candidates
    alone = ClassMemory(stage.options, vectors[candidates], grid, seed, False, candidates)
    wanted = torch.stack([alone.score(vectors[i], i) for i in range(80)])
    torch.testing.assert_close(written["maps"], wanted, rtol=0, atol=1e-6)


def test_the_cap_draws_candidates_of_the_class_by_seed() -> None:
    vectors = random_vectors(20)
    memory = make_memory(vectors, max_images=6, ratio=0.4)
    assert memory.candidates == make_memory(vectors, max_images=6).candidates == sorted(set(memory.candidates))
    assert len(memory.candidates) == 6
    assert memory.candidates != make_memory(vectors, seed=4, max_images=6).candidates
    assert make_memory(vectors, max_images=20).candidates == list(range(20))
    for own in (memory.candidates[0], next(i for i in range(20) if i not in memory.candidates)):
        pool = [i for i in memory.candidates if i != own]
        wanted = mean_over(combinations(pool, 2), image_distances(vectors[own], vectors))
        np.testing.assert_allclose(memory.score(vectors[own], own)[0], wanted, atol=1e-6)


def test_patch_vectors_are_unit_and_multiply_to_the_mean_cosine_of_the_groups() -> None:
    groups = [torch.randn(2, channels, 4, 6, generator=torch.Generator().manual_seed(channels)) for channels in (3, 8)]
    vectors = patch_vectors_of(groups, (4, 6))
    assert vectors.shape == (2, 24, 11)
    np.testing.assert_allclose(vectors.norm(dim=2), 1, atol=1e-6)
    products = vectors[0] @ vectors[1].T
    for a, b in product(range(24), repeat=2):
        pairs = [(g[0, :, a // 6, a % 6], g[1, :, b // 6, b % 6]) for g in groups]
        cosines = [F.cosine_similarity(x, y, dim=0).item() for x, y in pairs]
        assert products[a, b].item() == pytest.approx(sum(cosines) / 2, abs=1e-6)


def test_pooling_averages_the_neighbours_inside_the_map() -> None:
    group = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    vectors = patch_vectors_of([group], (4, 5), pooling=3)[0]
    for row, column in product(range(4), range(5)):
        window = group[0, :, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        wanted = F.normalize(window.flatten(1).mean(dim=1), dim=0)
        torch.testing.assert_close(vectors[row * 5 + column], wanted)


def test_a_border_patch_is_averaged_over_the_neighbours_that_are_there() -> None:
    """36 in a corner: 9, 6, 6 and 4 over the four windows around it, and 36 everywhere stays 36 at the border."""
    group = torch.stack([torch.zeros(4, 4), torch.full((4, 4), 36.0)])[None]
    group[0, 0, 0, 0] = 36.0
    (corner, *_) = patch_vectors_of([group], (2, 2), pooling=3)[0]
    torch.testing.assert_close(corner[0] / corner[1], torch.tensor((9 + 6 + 6 + 4) / 4 / 36))


@pytest.mark.parametrize(("family", "side"), [("cnn", 3), ("vit", 1)])
def test_the_maps_of_a_cnn_alone_are_pooled_unless_told_otherwise(family: Any, side: int, tmp_path: Path) -> None:
    features = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    context = make_context([features], ["tile"] * 2, tmp_path)
    context.backbone.family = family
    vectors, _ = Memory(MemoryOptions()).patch_vectors(context, context.data.train)
    assert torch.equal(vectors, patch_vectors_of([features], (4, 5), pooling=side))
    assert not torch.equal(vectors, patch_vectors_of([features], (4, 5), pooling=4 - side))


def test_groups_come_to_one_grid() -> None:
    fine, coarse = torch.arange(16.0).reshape(1, 1, 4, 4), torch.tensor([[[[1.0, 3.0]] * 2]])
    stacked = [torch.cat([g, torch.ones_like(g)], dim=1) for g in (fine, coarse)]
    averaged, enlarged = patch_vectors_of(stacked, (2, 2)), patch_vectors_of(stacked[1:], (2, 4))
    blocks = torch.tensor([2.5, 4.5, 10.5, 12.5])
    torch.testing.assert_close(averaged[0, :, 0] / averaged[0, :, 1], blocks)
    torch.testing.assert_close(enlarged[0, :4, 0] / enlarged[0, :4, 1], torch.tensor([1.0, 1.5, 2.5, 3.0]))


@pytest.mark.parametrize("options", [{}, {"estimator": "bootstrap", "banks": 7}, {"max_images": 5}])
def test_a_class_does_not_feel_another(options: dict[str, Any], tmp_path: Path) -> None:
    features = torch.randn(16, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    stage = Memory(MemoryOptions(ratio=0.3, features="final", pooling=1, **options))
    written: list[dict[str, Tensor]] = []
    for rows, classes in ((slice(8, 16), ["tile"] * 8), (slice(0, 16), ["bolt", "wood"] * 4 + ["tile"] * 8)):
        context = make_context([features[rows]], classes, tmp_path)
        stage.run(context)
        written.append(load_file(context.output.folder / "scores.safetensors"))
    alone, together = written
    assert alone["maps"].shape == (8, 3, 3)
    assert torch.equal(together["maps"][8:], alone["maps"])
    assert torch.equal(together["candidates"][together["candidates"] >= 8], alone["candidates"] + 8)


def test_unseen_images_are_scored_against_all_training_images(tmp_path: Path) -> None:
    features = torch.randn(6, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    context = make_context([features], ["tile"] * 6, tmp_path)
    stage = Memory(MemoryOptions(ratio=1.0, features="final", pooling=1))
    stage.run(context)
    artifact = stored(**load_file(context.output.folder / "scores.safetensors"))
    scorer = stage.scorer(context, artifact)
    assert scorer.training_scores().maps[0].min() > 1e-3
    (maps,) = scorer.scores([features], torch.zeros(6, dtype=torch.int64)).maps
    torch.testing.assert_close(maps, torch.zeros(6, 2, 2), atol=1e-6, rtol=0)
