"""The parts of InReaCh against literal references: embedding, channels, filter, memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from inreach_cases import (
    LAYERS,
    SMALL,
    Training,
    maps_of,
    published_channels,
    published_kept,
    published_patches,
)
from meds_inreach import InReaChOptions
from meds_inreach.channels import Members, find_members, long_enough, near_the_mean
from meds_inreach.embedding import PatchEmbedding, embedded_layers
from meds_inreach.images import ClassImages, asymmetry, embedded
from meds_inreach.memory import PatchMemory
from pydantic import ValidationError

from meds.api import Backbone, Layer, PluginError, Preprocessing


@pytest.mark.parametrize(("grid", "neighbourhood"), [(4, 3), (2, 3), (3, 1), (7, 5)])
def test_patches_are_those_of_the_published_order_of_steps(grid: int, neighbourhood: int) -> None:
    options = InReaChOptions(**{**SMALL, "grid": grid, "neighbourhood": neighbourhood})
    maps = maps_of(3)
    found = PatchEmbedding(options, LAYERS)(maps)
    torch.testing.assert_close(found, published_patches(maps, options, grid), rtol=1e-5, atol=1e-5)


def test_the_published_sizes_are_an_option_and_small_encoders_get_fewer_numbers() -> None:
    wide = tuple(Layer(f"stride{s}", c, 224 // s, 224 // s) for s, c in ((4, 256), (8, 512), (16, 1024), (32, 2048)))
    published = PatchEmbedding(InReaChOptions(grid=56), wide)
    assert (published.width, published.grid) == (1024, (56, 56))
    small = PatchEmbedding(InReaChOptions(), LAYERS)
    assert (small.width, small.grid) == (8, (4, 4))


def test_places_run_from_nothing_to_before_the_range() -> None:
    embedding = PatchEmbedding(InReaChOptions(**SMALL), LAYERS)
    maps = maps_of(2)
    found = embedded(maps, embedding, 5.0)
    assert torch.equal(found[:, :, :10], embedding(maps))
    assert found[1, :, 10].view(4, 4)[:, 2].tolist() == [0, 1.25, 2.5, 3.75]
    assert found[1, :, 11].view(4, 4)[2].tolist() == [0, 1.25, 2.5, 3.75]


@pytest.mark.parametrize(("level", "wanted"), [(40, False), (60, True)])
def test_places_matter_where_the_mean_image_is_not_its_own_transpose(tmp_path: Any, level: int, wanted: bool) -> None:
    pixels = torch.zeros(4, 8, 8, 3, dtype=torch.uint8)
    pixels[:2, 4:] = 2 * level  # on the mean image half as much
    training: Any = Training(maps_of(4), tmp_path, pixels=pixels)
    options = InReaChOptions(**{**SMALL, "position": "auto"})
    images = ClassImages(training, 0, PatchEmbedding(options, LAYERS), options)
    images.look_for_places()
    mean = pixels.double().mean(dim=0)
    squares = [(float(mean[y, x, c]) - float(mean[x, y, c])) ** 2 for y in range(8) for x in range(8) for c in range(3)]
    assert asymmetry(mean) == pytest.approx(np.mean(squares))
    assert images.places is wanted


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("rule", ["mutual", "any"])
@pytest.mark.parametrize("seeds", [1, 3, 20])
def test_channels_are_those_of_patch_by_patch_comparison(seeds: int, rule: Any, swapped: bool) -> None:
    vectors = PatchEmbedding(InReaChOptions(**SMALL), LAYERS)(maps_of(7, spread=1.0))
    found = find_members(enumerate(vectors), seeds, rule, swapped)
    pairs = sorted(zip(found.channels.tolist(), found.patches.tolist(), strict=True))
    wanted = published_channels(vectors.numpy().astype(np.float64), seeds, rule, swapped)
    assert pairs == sorted((s * 16 + q, i * 16 + p) for (s, q), members in wanted.items() for i, p in members)
    assert len(pairs) > seeds * 16 or seeds == 20


def test_the_rules_and_the_mistake_give_different_channels() -> None:
    vectors = PatchEmbedding(InReaChOptions(**SMALL), LAYERS)(maps_of(7, spread=1.0))
    counts = {
        (rule, swapped): find_members(enumerate(vectors), 3, rule, swapped)
        for rule in ("mutual", "any")
        for swapped in (False, True)
    }
    lengths = {key: len(members.channels) for key, members in counts.items()}
    assert lengths["mutual", False] > lengths["any", False]
    assert counts["any", True].patches.tolist() != counts["any", False].patches.tolist()


@pytest.mark.parametrize("spread", ["std", "rms"])
@pytest.mark.parametrize("limit", [1.0, 2.0, 5.0])
def test_the_filter_keeps_what_lies_near_the_mean(limit: float, spread: Any) -> None:
    options = InReaChOptions(**{**SMALL, "max_channel_std": limit, "spread": spread})
    vectors = PatchEmbedding(options, LAYERS)(maps_of(9, spread=0.7))
    members = long_enough(find_members(enumerate(vectors), 3, "mutual", False), 3)
    every = vectors.flatten(0, 1).double()
    means = {c: every[members.patches[members.channels == c]].mean(dim=0) for c in members.channels.tolist()}
    middle = torch.stack([means[c] for c in members.channels.tolist()])
    distances = (every[members.patches] - middle).norm(dim=1)
    found = long_enough(near_the_mean(members, distances, middle.norm(dim=1), limit, spread), 3)
    images = vectors.numpy().astype(np.float64)
    wanted = published_kept(images, published_channels(images, 3), options)
    assert {divmod(patch, 16) for patch in found.patches.tolist()} == wanted


def test_a_channel_of_equal_patches_is_kept() -> None:
    """A plain background has no spread, and the published rule (smaller than nothing) would call it a defect."""
    members = Members(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 5, 9, 13]))
    rounding = torch.tensor([0.0, 1e-7, 1e-7, 0.0])
    assert len(near_the_mean(members, rounding, torch.ones(4), 5.0, "std").patches) == 4
    assert len(near_the_mean(members, torch.full((4,), 0.5), torch.ones(4), 5.0, "std").patches) == 0


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_distances_to_the_memory_are_the_smallest_of_all(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("meds_inreach.memory._BLOCK", block)
    generator = torch.Generator().manual_seed(1)
    vectors, queries = torch.randn(23, 6, generator=generator) + 9, torch.randn(8, 6, generator=generator) + 9
    owners = torch.tensor([0] * 5 + [2] * 10 + [3] * 8)
    memory = PatchMemory(vectors, owners)
    every = (queries[:, None].double() - vectors.double()).square().sum(dim=2)
    torch.testing.assert_close(memory.squared_distances(queries), every.amin(dim=1).float())
    for image in (0, 1, 2, 3):
        wanted = every[:, owners != image].amin(dim=1).float()
        torch.testing.assert_close(memory.squared_distances(queries, without=[image]), wanted)
    wanted = every[:, owners == 2].amin(dim=1).float()
    torch.testing.assert_close(memory.squared_distances(queries, without=[0, 3]), wanted)


def test_an_image_that_owns_the_whole_memory_finds_nothing() -> None:
    memory = PatchMemory(torch.ones(3, 2), torch.tensor([4, 4, 4]))
    assert memory.squared_distances(torch.zeros(1, 2), without=[4]).tolist() == [float("inf")]


def encoder(family: str, *layers: Layer) -> Any:
    class Encoder(Backbone):
        def to(self, device: Any) -> None: ...

        def forward(self, images: Any, layers: Any) -> Any: ...

    found: Any = Encoder()
    found.name, found.family, found.layers, found.final_layer = "encoder", family, layers, layers[-1].name
    found.preprocessing = Preprocessing(64, 64)
    return found


def test_layers_are_a_cnn_s_four_stages_or_a_vit_s_blocks_but_the_deepest() -> None:
    stages = [Layer(f"stride{s}", 8, 64 // s, 64 // s) for s in (2, 4, 8, 16, 32)]
    assert embedded_layers(InReaChOptions(), encoder("cnn", *stages)) == ("stride4", "stride8", "stride16", "stride32")
    blocks = [Layer(f"block{i}", 8, 4, 4) for i in range(12)]
    vit = encoder("vit", *blocks, Layer("prefix11", 8, 1, 1), Layer("final", 8, 4, 4))
    assert embedded_layers(InReaChOptions(), vit) == ("block2", "block5", "block8")
    assert embedded_layers(InReaChOptions(), encoder("vit", *blocks[:4])) == ("block0", "block1", "block2")
    assert embedded_layers(InReaChOptions(), encoder("vit", *blocks[:2])) == ("block0",)
    assert embedded_layers(InReaChOptions(), encoder("vit", Layer("final", 8, 4, 4))) == ("final",)


@pytest.mark.parametrize(("layer", "sentence"), [("stride3", "unknown layer"), ("prefix0", "holds other tokens")])
def test_layers_that_cannot_serve_are_refused(layer: str, sentence: str) -> None:
    known = encoder("vit", Layer("block0", 8, 4, 4), Layer("prefix0", 8, 1, 1))
    with pytest.raises(PluginError, match=sentence):
        embedded_layers(InReaChOptions(layers=[layer]), known)


def test_an_even_neighbourhood_is_refused() -> None:
    with pytest.raises(ValidationError, match="neighbourhood must be odd"):
        InReaChOptions(neighbourhood=4)


@pytest.mark.parametrize(
    ("position", "option"),
    [("always", "position_threshold"), ("never", "position_threshold"), ("never", "position_range")],
)
def test_options_of_a_place_that_is_not_used_are_refused(position: str, option: str) -> None:
    with pytest.raises(ValidationError, match=f"{option} has no effect with `position: {position}`"):
        InReaChOptions(position=position, **{option: 7.0})
    assert getattr(InReaChOptions(**{option: 7.0}), option) == 7.0
