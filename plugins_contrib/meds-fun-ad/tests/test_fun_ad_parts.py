"""The parts of FUN-AD against literal references: distances, labels, losses, features, network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fun_ad_cases import (
    CNN_LAYERS,
    VIT_LAYERS,
    Training,
    drawn,
    joined,
    maps_of,
    published_adapted,
    published_memory_distance,
    published_pairs,
)
from meds_fun_ad import FunADOptions
from meds_fun_ad.features import FeatureReader, Joined
from meds_fun_ad.losses import balanced_cross_entropy, mutual_pairs, mutual_smoothness
from meds_fun_ad.memory import draw_images, memory_distances, pseudo_labels, unit_range
from meds_fun_ad.nearest import NearestVectors
from meds_fun_ad.network import LocalNetwork
from meds_fun_ad.training import noise_scale


@pytest.mark.parametrize("coarse", [False, True])
def test_nearest_vectors_are_those_of_all_distances(monkeypatch: pytest.MonkeyPatch, coarse: bool) -> None:
    monkeypatch.setattr("meds_fun_ad.nearest._QUERIES", 7)
    monkeypatch.setattr("meds_fun_ad.nearest._VECTORS", 11)
    vectors, queries = drawn(50, 6, seed=1) + 3, drawn(23, 6, seed=2) + 3
    wanted = torch.cdist(queries.double(), vectors.double()).square().topk(3, dim=1, largest=False)
    distances, places = NearestVectors(vectors, coarse).find(queries, 3)
    assert torch.equal(places, wanted.indices)
    torch.testing.assert_close(distances, wanted.values.float(), rtol=1e-5, atol=1e-6)


def test_a_query_passes_over_its_own_row_and_few_vectors_give_few_columns() -> None:
    vectors = torch.tensor([[0.0], [1.0], [3.0]])
    distances, places = NearestVectors(vectors).find(vectors, 5, own=torch.arange(3))
    assert places.tolist() == [[1, 2], [0, 2], [1, 0]]
    assert distances.tolist() == [[1, 9], [1, 4], [4, 9]]


@pytest.mark.parametrize("zero_below", [0.0, 0.01, 4.0])
def test_distances_to_the_memory_follow_the_rule_of_the_two_nearest(zero_below: float) -> None:
    memory = drawn(40, 5, seed=3)
    patches = torch.cat([memory[:10], memory[10:20] + 1e-3, drawn(10, 5, seed=4)])
    wanted = [published_memory_distance(patch, memory, zero_below) for patch in patches]
    torch.testing.assert_close(memory_distances(patches, memory, zero_below), torch.tensor(wanted))


def test_a_memory_of_one_vector_is_compared_with_that_one() -> None:
    assert memory_distances(torch.tensor([[3.0], [1.0]]), torch.tensor([[1.0]]), 0.01).tolist() == [4, 0]


def test_images_are_drawn_from_those_that_score_low() -> None:
    scores = torch.tensor([0.9, 0.1, 0.2, 0.5, 0.3, 0.45, 0.8])
    candidates = {1, 2, 4, 5}  # the middle of 0.1 and 0.9 is 0.5, which is not below itself
    seen = set()
    for seed in range(30):
        images = draw_images(scores, 0.5, 0.5, torch.Generator().manual_seed(seed))
        assert len(images) == 2
        assert images == sorted(set(images))
        seen |= set(images)
    assert seen == candidates


def test_one_image_is_drawn_at_least_and_equal_scores_make_all_candidates() -> None:
    generator = torch.Generator().manual_seed(0)
    assert draw_images(torch.tensor([1.0, 0.0]), 0.5, 0.5, generator) == [1]
    assert len(draw_images(torch.full((9,), 0.3), 0.5, 0.5, generator)) == 4
    assert unit_range(torch.full((3,), 2.0)).tolist() == [0, 0, 0]


def test_labels_and_noise_lie_between_the_thresholds() -> None:
    labels = pseudo_labels(torch.tensor([[10.0, 20.0, 15.0], [15.1, 19.0, 18.9]]), FunADOptions())
    assert labels.anomalous.tolist() == [[False, True, False], [True, True, True]]
    assert labels.noised.tolist() == [[False, False, False], [True, False, True]]


def test_cross_entropy_weighs_both_labels_alike() -> None:
    logits = drawn(30) * 3
    anomalous = torch.arange(30) < 4
    wanted = sum(
        F.binary_cross_entropy(logits[side].sigmoid(), torch.full((int(side.sum()),), value))
        for side, value in ((anomalous, 1.0), (~anomalous, 0.0))
    )
    torch.testing.assert_close(balanced_cross_entropy(logits, anomalous), wanted)


@pytest.mark.parametrize("label", [True, False])
def test_cross_entropy_of_one_label_alone(label: bool) -> None:
    logits = drawn(5)
    wanted = F.binary_cross_entropy(logits.sigmoid(), torch.full((5,), float(label)))
    torch.testing.assert_close(balanced_cross_entropy(logits, torch.full((5,), label)), wanted)


@pytest.mark.parametrize("coarse", [False, True])
def test_pairs_are_each_other_s_nearest(coarse: bool) -> None:
    vectors = drawn(60, 4, seed=5)
    found = mutual_pairs(vectors, coarse).tolist()
    assert [tuple(pair) for pair in found] == published_pairs(vectors)
    assert found


def test_a_single_patch_has_no_pair() -> None:
    pairs = mutual_pairs(drawn(1, 4))
    assert pairs.shape == (0, 2)
    assert float(mutual_smoothness(drawn(1), pairs)) == 0


def test_smoothness_and_its_gradient_are_those_of_both_distances_to_the_middle() -> None:
    scores = drawn(12, seed=6).requires_grad_()
    pairs = torch.tensor([[0, 3], [1, 2], [5, 11]])
    first, second = scores[pairs[:, 0]], scores[pairs[:, 1]]
    middle = (first + second) / 2
    wanted = 0.5 * (F.l1_loss(first, middle) + F.l1_loss(second, middle))
    found = mutual_smoothness(scores, pairs)
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad(value, scores, retain_graph=True)[0] for value in (found, wanted)]
    torch.testing.assert_close(*gradients)


def test_noise_is_as_wide_as_the_widest_position() -> None:
    features = Joined(drawn(6, 4, 3, seed=7) * torch.tensor([1.0, 5.0, 0.1]), drawn(6, 2, seed=8))
    whole = joined(features)
    wanted = [max(float(whole[:, p, c].std()) for p in range(4)) for c in range(5)]
    torch.testing.assert_close(noise_scale(features), torch.tensor(wanted))


def test_the_adaptor_sees_the_joined_feature() -> None:
    network = LocalNetwork(5, (4, 3))
    features = Joined(drawn(2, 6, 3), drawn(2, 2, seed=1))
    wanted = published_adapted(network, joined(features))
    torch.testing.assert_close(network.adapt(features), wanted)
    mask = drawn(2, 6, seed=2) > 0
    assert torch.equal(features.whole(mask), joined(features)[mask])
    torch.testing.assert_close(network.adapt_whole(features.whole(mask)), wanted[mask])


def test_the_network_has_the_published_size() -> None:
    network = LocalNetwork(1536, (1024, 128))
    assert sum(p.numel() for p in network.parameters()) == 1536**2 + 1536 + 1536 * 1024 + 1024 + 1024 * 128 + 128 + 129


def test_patches_of_a_cnn_are_standardised_and_joined_with_their_mean(tmp_path: Any) -> None:
    maps = maps_of(7)
    maps[1] = maps[1] * 40 + 100
    reader = FeatureReader(FunADOptions(), CNN_LAYERS)
    features = reader.read_all(Training(maps, tmp_path))
    fine = torch.cat([maps[0], F.interpolate(maps[1], size=(4, 4), mode="bilinear", align_corners=False)], dim=1)
    flat = fine.permute(0, 2, 3, 1).reshape(7, 16, 8)
    every = flat.reshape(-1, 8).double()
    wanted = ((flat - every.mean(dim=0)) / every.std(dim=0, correction=0)).float()
    torch.testing.assert_close(features.patches, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features.images, wanted.mean(dim=1), rtol=1e-4, atol=1e-4)
    assert (reader.width, reader.grid) == (16, (4, 4))


def test_patches_of_a_vit_are_joined_with_its_class_token(tmp_path: Any) -> None:
    maps = maps_of(3, VIT_LAYERS)
    reader = FeatureReader(FunADOptions(), VIT_LAYERS)
    features = reader.read_all(Training(maps, tmp_path))
    assert torch.equal(features.patches, maps[0].flatten(2).transpose(1, 2))
    token = maps[1][:, :, 0, 0]
    wanted = (token - token.mean(dim=1, keepdim=True)) / token.std(dim=1, correction=0, keepdim=True)
    torch.testing.assert_close(features.images, wanted, rtol=1e-3, atol=1e-3)
    assert (reader.width, reader.grid) == (12, (3, 3))


def test_a_coarser_grid_takes_means() -> None:
    maps = maps_of(2)
    reader = FeatureReader(FunADOptions(grid=2), CNN_LAYERS)
    patches = reader.read(maps).patches
    torch.testing.assert_close(patches[:, :, :5].transpose(1, 2).reshape(2, 5, 2, 2), F.avg_pool2d(maps[0], 2))
    assert torch.equal(patches[:, :, 5:].transpose(1, 2).reshape(2, 3, 2, 2), maps[1])
