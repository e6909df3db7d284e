"""FUN-AD's training against an iteration written out, its randomness, its checkpoints, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fun_ad_cases import (
    CNN_LAYERS,
    SMALL,
    VIT_LAYERS,
    Training,
    drawn,
    joined,
    maps_of,
    published_adapted,
    published_loss,
    published_scores,
)
from meds_fun_ad import FunADOptions, meds_students
from meds_fun_ad.detector import FunAD
from meds_fun_ad.features import Joined, layers_of
from meds_fun_ad.network import LocalNetwork
from meds_fun_ad.training import Trainer

from meds.api import Backbone, DataError, Layer, MedsError, PluginError, Preprocessing, derive_seed


def trainer(folder: Path, count: int = 9, **changes: Any) -> Trainer:
    options = FunADOptions(**{**SMALL, **changes})
    data = Joined(drawn(count, 6, 4) * 2, drawn(count, 3, seed=1))
    torch.manual_seed(0)
    return Trainer(LocalNetwork(7, options.hidden), data, Training(maps_of(count), folder), options)  # type: ignore[arg-type]


@pytest.mark.parametrize("in_place", [False, True])
def test_loss_and_gradient_are_those_of_an_iteration_written_out(tmp_path: Path, in_place: bool) -> None:
    found = trainer(tmp_path, noise_in_place=in_place, threshold=0.3)
    features = found.data.rows([1, 4, 5, 8])
    memory = published_adapted(found.network, joined(found.data.rows([1, 3, 6]))).detach().flatten(0, 1)
    loss = found.loss(features, memory, torch.Generator().manual_seed(3))
    wanted = published_loss(found.network, features, memory, found.options, torch.Generator().manual_seed(3))
    torch.testing.assert_close(loss, wanted)
    parameters = list(found.network.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(wanted, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_noise_in_place_is_another_loss(tmp_path: Path) -> None:
    memory = drawn(30, 7, seed=5)
    losses = []
    for place in (False, True):
        found = trainer(tmp_path, noise_in_place=place, threshold=0.1)
        loss = found.loss(found.data.rows([0, 1, 2, 3]), memory, torch.Generator().manual_seed(3))
        losses.append(loss.item())
    assert abs(losses[0] - losses[1]) > 1e-4


def test_the_memory_is_made_of_half_the_images_that_score_below_the_middle(tmp_path: Path) -> None:
    found = trainer(tmp_path)
    scores = published_scores(found.network, joined(found.data)).amax(dim=1)
    middle = (scores.min() + scores.max()) / 2
    candidates = [i for i in range(9) if scores[i] < middle]
    memory = found.rebuild_memory(0, torch.Generator().manual_seed(1)).view(-1, 6, 7)
    adapted = published_adapted(found.network, joined(found.data))
    chosen = [i for i in range(9) if any(torch.allclose(adapted[i], part, atol=1e-5) for part in memory)]
    assert len(memory) == len(chosen) == max(1, len(candidates) // 2)
    assert set(chosen) <= set(candidates)


def test_scores_are_computed_again_as_often_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = trainer(tmp_path, rescore_every=3)
    seen = []
    original = Trainer._logits
    monkeypatch.setattr(Trainer, "_logits", lambda self, part: seen.append(len(part)) or original(self, part))
    counts = []
    for iteration in range(5):
        found.rebuild_memory(iteration, torch.Generator().manual_seed(iteration))
        counts.append(sum(seen))
    assert counts == [9, 9, 9, 18, 18]


def test_an_epoch_visits_images_once_and_leaves_out_the_last_small_batch(tmp_path: Path) -> None:
    found = trainer(tmp_path, count=10, batch_size=4)
    assert found.iterations == 3 * 2
    epochs = [sorted(found.batch(2 * epoch) + found.batch(2 * epoch + 1)) for epoch in range(3)]
    assert all(len(set(images)) == 8 for images in epochs)
    assert found.batch(0) != found.batch(2)
    assert trainer(tmp_path, count=3, batch_size=32).iterations == 3


@pytest.mark.parametrize("rescore_every", [1, 4])
def test_a_stopped_training_ends_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rescore_every: int
) -> None:
    monkeypatch.setenv("MEDS_CHECKPOINT_SECONDS", "0")
    whole = trainer(tmp_path / "whole", rescore_every=rescore_every)
    whole.train()
    stopped = trainer(tmp_path / "stopped", rescore_every=rescore_every)
    step = Trainer.step

    def stop_at_three(self: Trainer, iteration: int) -> float:
        if iteration == 3:
            raise KeyboardInterrupt
        return step(self, iteration)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stop_at_three)
        with pytest.raises(KeyboardInterrupt):
            stopped.train()
    torch.manual_seed(99)
    again = trainer(tmp_path / "stopped", rescore_every=rescore_every)
    visited = []
    monkeypatch.setattr(Trainer, "step", lambda self, i: visited.append(i) or step(self, i))
    again.train()
    assert visited == [3, 4, 5]
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name


def test_randomness_comes_from_the_seed_and_the_position_alone(tmp_path: Path) -> None:
    first, second = trainer(tmp_path), trainer(tmp_path)
    torch.manual_seed(1)
    losses = [first.step(2)]
    torch.manual_seed(2)
    losses.append(second.step(2))
    assert losses[0] == losses[1]
    other = trainer(tmp_path)
    other.training.seed = derive_seed(7, "another")
    assert other.step(2) != losses[0]


def test_a_loss_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    found = trainer(tmp_path)
    with torch.no_grad():
        found.network.discriminator[4].bias.fill_(torch.nan)
    with pytest.raises(MedsError, match="the loss is no longer a finite number at iteration 0"):
        found.step(0)


@pytest.mark.parametrize("layers", [CNN_LAYERS, VIT_LAYERS], ids=["cnn", "vit"])
def test_scores_are_those_of_the_network_on_joined_features(tmp_path: Path, layers: tuple[Layer, ...]) -> None:
    maps = maps_of(6, layers)
    detector = FunAD(FunADOptions(**SMALL), layers, ["a"])
    detector.fit(Training(maps, tmp_path))  # type: ignore[arg-type]
    other = FunAD(FunADOptions(**SMALL), layers, ["a"])
    other.load_state(detector.state(), torch.device("cpu"))
    new = maps_of(2, layers, seed=5)
    wanted = published_scores(detector.network, joined(detector._reader.read(new)))
    for found in (detector, other):
        scores = found.score(new, torch.zeros(2, dtype=torch.int64))
        assert scores.images is None
        torch.testing.assert_close(scores.maps[0].flatten(1), wanted.detach())
    assert detector.training_scores() is None


def test_training_finds_patches_that_stand_out(tmp_path: Path) -> None:
    maps = maps_of(16)
    maps[0][3, :, 1, 2] += 6
    maps[0][9, :, 2, 2] += 6
    detector = FunAD(FunADOptions(**{**SMALL, "epochs": 10, "hidden": (32, 16)}), CNN_LAYERS, ["a"])
    torch.manual_seed(0)
    detector.fit(Training(maps, tmp_path))  # type: ignore[arg-type]
    scores = detector.score(maps, detector_classes(16)).maps[0]
    assert set(scores.flatten(1).amax(dim=1).topk(2).indices.tolist()) == {3, 9}
    assert divmod(int(scores[3].argmax()), 4) == (1, 2)


def detector_classes(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.int64)


def test_one_training_image_is_refused(tmp_path: Path) -> None:
    detector = FunAD(FunADOptions(**SMALL), CNN_LAYERS, ["a"])
    with pytest.raises(DataError, match="needs at least two training images"):
        detector.fit(Training(maps_of(1), tmp_path))  # type: ignore[arg-type]


def encoder(*layers: Layer, family: str = "vit") -> Any:
    class Encoder(Backbone):
        def to(self, device: Any) -> None: ...

        def forward(self, images: Any, layers: Any) -> Any: ...

    found: Any = Encoder()
    found.name, found.family, found.layers, found.final_layer = "encoder", family, layers, layers[-1].name
    found.preprocessing = Preprocessing(32, 32)
    return found


VIT = (Layer("block0", 6, 3, 3), Layer("prefix0", 6, 1, 1), Layer("prefix1", 6, 1, 1), Layer("final", 6, 3, 3))


def test_layers_are_the_final_ones_and_the_last_class_token() -> None:
    assert layers_of(FunADOptions(), encoder(*VIT)) == ("final", "prefix1")
    assert layers_of(FunADOptions(image_vector="mean"), encoder(*VIT)) == ("final",)
    assert layers_of(FunADOptions(layers=["block0"]), encoder(*VIT)) == ("block0", "prefix1")
    assert layers_of(FunADOptions(), encoder(*CNN_LAYERS, family="cnn")) == ("stride8", "stride16")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layers": ["block7"]}, "unknown layer of the backbone 'encoder' 'block7'; did you mean 'block0'"),
        ({"layers": ["prefix0"]}, "scores patches, but the layer 'prefix0'"),
    ],
)
def test_layers_that_cannot_serve_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PluginError, match=sentence):
        layers_of(FunADOptions(**options), encoder(*VIT))


def test_a_class_token_that_is_not_there_is_refused() -> None:
    with pytest.raises(PluginError, match="has no class token: set the option 'image_vector'"):
        layers_of(FunADOptions(image_vector="class-token"), encoder(*CNN_LAYERS, family="cnn"))


def test_the_released_recipe_is_made_of_options() -> None:
    (plugin,) = meds_students()
    changed = FunADOptions(**plugin.recipes["released"]).model_dump(exclude_defaults=True)
    assert changed == plugin.recipes["released"]
