"""The mapping between meds and anomalib, with a model that stands in for anomalib's."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from anomalib_cases import run_spec, spec
from meds_anomalib import AnomalibOptions, PixelsOptions, detector
from meds_anomalib.detector import AnomalibDetector, make_room
from meds_anomalib.models import MODELS, ModelFacts
from meds_anomalib.pixels import Pixels
from torch import Tensor, nn

from meds.api import PluginError, Scores

SIZE = 8


class Network(nn.Module):
    """A memory whose size only the fit knows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(2))
        self.register_buffer("memory", torch.empty(0))


class StandIn:
    """An image's score is how far its mean is from the nearest training image's; its map is that of each pixel."""

    made: ClassVar[list[StandIn]] = []

    def __init__(self, options: Any, size: int, with_weights: bool = True) -> None:
        self.network, self.size, self.with_weights = Network(), size, with_weights
        self.placed_on: torch.device | None = None
        StandIn.made.append(self)

    def fit(self, images: Any, device: torch.device, bar: Any) -> None:
        self.network.memory = torch.stack([images[i].mean() for i in range(len(images))])
        bar.advance()
        self.placed_on = device

    def fit_steps(self, count: int) -> int:
        return 1 if count else 0

    def place(self, device: torch.device) -> None:
        self.placed_on = device

    def scores(self, images: Tensor) -> Scores:
        assert images.min() >= 0
        assert images.max() <= 1
        means = images.mean(dim=(1, 2, 3))
        return Scores([(images.mean(dim=1) - 0.5)], (means[:, None] - self.network.memory[None]).abs().amin(dim=1))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    monkeypatch.setattr(detector, "AnomalibModel", StandIn)
    monkeypatch.setattr(StandIn, "made", [])
    return StandIn


class Bar:
    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def advance(self, steps: int = 1, note: str = "") -> None:
        return None


class Training:
    def __init__(self, images: Tensor, seed: int = 5) -> None:
        self.images, self.seed, self.device = images, seed, torch.device("cpu")
        self.contents = torch.arange(len(images))

    def __len__(self) -> int:
        return len(self.images)

    def read(self, positions: Any) -> list[Tensor]:
        return [self.images[list(positions)]]

    def bar(self, title: str, total: int) -> Bar:
        return Bar()


def new_detector(**options: Any) -> AnomalibDetector:
    pixels = Pixels(PixelsOptions(image_size=SIZE))
    chosen = AnomalibOptions.model_validate({"model": "Padim", **options})
    assert AnomalibDetector.layers_needed(chosen, pixels) == ("pixels",)
    return AnomalibDetector(chosen, pixels.layers, ["a"])


def random_images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(1)).float()


def test_images_reach_the_model_from_0_to_1_and_scores_come_back(stand_in: type[StandIn]) -> None:
    images = random_images(5)
    found = new_detector()
    found.fit(Training(images))
    assert torch.equal(stand_in.made[0].network.memory, (images / 255).mean(dim=(1, 2, 3)))
    darker = images[:2] * 0.999
    scores = found.score([darker], torch.zeros(2, dtype=torch.int64))
    assert scores.images is not None
    for image, score in zip(darker, scores.images.tolist(), strict=True):
        assert score == pytest.approx(min(abs(float(image.mean() - other.mean())) for other in images) / 255, abs=1e-6)
    assert found.training_scores() is None


def test_copies_of_an_image_are_in_one_fold(stand_in: type[StandIn]) -> None:
    training: Any = Training(random_images(4)[[0, 1, 2, 3, 3, 3]])
    training.contents = torch.tensor([0, 1, 2, 3, 3, 3])
    found = new_detector(folds=4)
    found.fit(training)
    known = found.training_scores()
    assert known is not None
    assert known.images is not None
    assert bool((known.images > 0).all())
    assert known.images[3] == known.images[4] == known.images[5]


def test_a_state_of_unknown_size_comes_back(stand_in: type[StandIn]) -> None:
    images = random_images(6)
    first, second = new_detector(folds=2), new_detector(folds=2)
    first.fit(Training(images))
    state = first.state()
    assert {type(value) for value in state.values()} == {Tensor}
    second.load_state(state, torch.device("cpu"))
    assert not stand_in.made[-1].with_weights
    classes = torch.zeros(3, dtype=torch.int64)
    one, two = first.score([images[:3]], classes), second.score([images[:3]], classes)
    assert torch.equal(one.maps[0], two.maps[0])
    known, loaded = first.training_scores(), second.training_scores()
    assert known is not None
    assert loaded is not None
    assert torch.equal(known.maps[0], loaded.maps[0])
    assert second.state().keys() == state.keys()


def test_the_state_of_another_model_is_refused(stand_in: type[StandIn]) -> None:
    with pytest.raises(PluginError, match="The stored state of anomalib's Padim does not fit the model: 'weight'"):
        new_detector().load_state({"network.weigth": torch.zeros(2)}, torch.device("cpu"))


def test_training_images_are_scored_by_models_that_never_saw_them(stand_in: type[StandIn]) -> None:
    images = random_images(7)
    found = new_detector(folds=3)
    found.fit(Training(images))
    assert [len(model.network.memory) for model in stand_in.made] == [4, 5, 5, 7]
    known = found.training_scores()
    assert known is not None
    assert known.images is not None
    means = (images / 255).mean(dim=(1, 2, 3))
    # The slow reference: each image is missing in one fold's memory, and scored by that one.
    for position, mean in enumerate(means):
        without = [m.network.memory for m in stand_in.made[:3] if not (m.network.memory == mean).any()]
        assert len(without) == 1
        assert known.images[position] == pytest.approx(float((without[0] - mean).abs().min()), abs=1e-7)
    assert torch.equal(known.maps[0], ((images / 255).mean(dim=1) - 0.5).clamp_min(0))


def test_the_same_seed_gives_the_same_folds(stand_in: type[StandIn]) -> None:
    results = []
    for seed in (5, 5):
        torch.manual_seed(seed)
        found = new_detector(folds=2)
        found.fit(Training(random_images(8), seed))
        results.append(found.state())
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


def test_a_model_whose_maps_start_below_zero_is_shifted(
    stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "Padim", ModelFacts(lowest=-0.5))
    images = random_images(4)
    found = new_detector()
    found.fit(Training(images))
    scores = found.score([images], torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(scores.maps[0], (images / 255).mean(dim=1))


def test_only_buffers_change_their_shape() -> None:
    network = nn.Sequential(Network())
    make_room(network, {"0.memory": torch.zeros(3, 2), "0.weight": torch.zeros(5)})
    assert network[0].memory.shape == (3, 2)
    assert network[0].weight.shape == (2,)


def test_a_whole_run(stand_in: type[StandIn], tmp_path: Path) -> None:
    student = {"type": "anomalib", "model": "Patchcore", "pre_trained": False, "folds": 2}
    done = run_spec(tmp_path, spec(student=student))
    assert done.code == 0, done.said
    with (tmp_path / "runs" / "tiny" / "predictions.csv").open(encoding="utf-8") as file:
        scores = {row["path"]: float(row["score"]) for row in csv.DictReader(file)}
    contaminated = [path for path in scores if "/test/good/" not in path]
    # An injected image is in the memory, which gives it a distance of nothing.
    assert sum(scores[path] == 0 for path in contaminated) == 2
