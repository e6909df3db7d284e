"""The search of a class in itself, which multiplies two images once, against the search of one image after another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from meds.core.runtime import Runtime
from meds.core.workload import image_pairs
from meds.stages import nearest, own_nearest
from meds.stages.class_memory import ClassMemory, draw_candidates
from meds.stages.nearest import PatchIndex
from meds.stages.options import MemoryOptions


def vectors_of(images: int, patches: int, channels: int = 32) -> Tensor:
    """Unit vectors whose products are exact in any order, so that two searches can be held against each other."""
    generator = torch.Generator().manual_seed(images)
    signs = torch.randint(0, 2, (images, patches, channels), generator=generator) * 2.0 - 1.0
    return signs / 8.0 if channels == 64 else F.normalize(signs, dim=2)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("patches", [12, 7, 1])
@pytest.mark.parametrize(("block", "share"), [(1, 1e9), (3, 1e9), (3, 0.0), (4, 0.2), (99, 1e9)])
def test_multiplying_once_finds_what_every_image_finds(
    coarse: bool, patches: int, block: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_nearest, "_WAITING_SHARE", share)
    vectors = vectors_of(11, patches, channels=64)
    index = PatchIndex(vectors, coarse)
    monkeypatch.setattr(index, "images_in_block", min(block, 11))
    found = list(own_nearest.own_nearest(index, Runtime(threads=2).side_by_side, lambda *answer: answer))
    assert [position for position, _ in found] == list(range(11))
    for position, own in found:
        alone = index.nearest(vectors[position])
        assert torch.equal(own.cosines, alone.cosines)
        reached = torch.einsum("qc,nqc->qn", vectors[position], vectors[torch.arange(11)[:, None], own.places.T.long()])
        assert torch.equal(reached, (vectors[position] @ vectors.transpose(1, 2)).amax(dim=2).T)


@pytest.mark.parametrize("count", [1, 5, 12, 13])
@pytest.mark.parametrize("largest", [1, 4, 12, 50])
def test_bands_hold_every_image_once(count: int, largest: int) -> None:
    bands = list(own_nearest._bands(count, largest))
    assert [image for band in bands for image in band] == list(range(count))
    assert max(len(band) for band in bands) <= largest
    assert max(len(band) for band in bands) - min(len(band) for band in bands) <= 1


@pytest.mark.parametrize(("coarse", "bytes_kept"), [(True, 4), (False, 6)])
def test_what_waits_for_its_turn_stays_within_its_share(coarse: bool, bytes_kept: int) -> None:
    vectors = vectors_of(1000, 4)
    assert PatchIndex(vectors, coarse).images_in_block == 2
    largest = own_nearest._largest_band(PatchIndex(vectors, coarse))
    waiting = max(done * (largest - done) for done in range(largest)) * 4 * bytes_kept
    assert 0.28 * vectors.nbytes < waiting <= 0.3 * vectors.nbytes


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"self_match": True}, {"max_images": 5}, {"estimator": "bootstrap", "banks": 9}, {"level": "patch"}],
)
def test_all_training_images_get_the_scores_that_each_gets_alone(options: dict[str, Any], coarse: bool) -> None:
    vectors = vectors_of(12, 6)
    given = MemoryOptions(ratio=0.3, **options)
    candidates = draw_candidates(given, 12, 3)
    others = [i for i in range(12) if i not in candidates]
    memory = ClassMemory(given, vectors[candidates], (2, 3), 3, coarse, candidates)
    blocks = [(part, vectors[part]) for part in (others[:3], others[3:])]
    found = dict(memory.score_all(Runtime(threads=2).side_by_side, blocks))
    assert sorted(found) == list(range(12))
    for position, scores in found.items():
        torch.testing.assert_close(scores, memory.score(vectors[position], position), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("count", "candidates"), [(1, 1), (5, 5), (9, 4)])
def test_pairs_are_counted_as_they_are_multiplied(count: int, candidates: int) -> None:
    pairs = {tuple(sorted((image, other))) for image in range(count) for other in range(candidates)}
    assert image_pairs([count], candidates) == len(pairs)


@pytest.mark.parametrize("rows", [1, 5, 12, 13])
def test_thelargest_in_columns_is_the_first_largest(rows: int) -> None:
    products = -torch.randint(1, 9, (3, rows, 10), generator=torch.Generator().manual_seed(rows)).float() / 8
    for values in (products.bfloat16(), products):
        found, places = nearest.largest_in_columns(values)
        assert torch.equal(found, values.amax(dim=1))
        assert torch.equal(values.gather(1, places[:, None])[:, 0], found)
    by_hand = torch.from_numpy(products.numpy().argmax(axis=1))
    assert torch.equal(nearest.largest_in_columns(products.bfloat16())[1], by_hand)
