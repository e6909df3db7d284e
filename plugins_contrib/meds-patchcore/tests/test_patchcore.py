"""PatchCore against brute force, and its scores of the images that it was fitted on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from meds_patchcore import PatchCoreOptions
from meds_patchcore.detector import PatchCore
from patchcore_cases import (
    LAYERS,
    Training,
    fitted,
    images,
    literal_choice,
    small_embedding,
    smallest_distances,
)
from torch import Tensor

from meds.api import DataError

CLASSES = torch.zeros(3, dtype=torch.int64)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ratio", [0.1, 0.37])
def test_the_memory_is_the_coreset_of_the_literal_loop(tmp_path: Path, ratio: float) -> None:
    train = images(6)
    vectors = small_embedding(train).flatten(0, 1)
    picks, _ = literal_choice(vectors, int(ratio * len(vectors)), seed=7)
    close(fitted(Training(train, tmp_path), coreset_ratio=ratio).memory.vectors, vectors[picks])


@pytest.mark.parametrize("distance", ["squared", "euclidean"])
@pytest.mark.parametrize("neighbours", [1, 3])
def test_scores_are_brute_force_distances(tmp_path: Path, distance: str, neighbours: int) -> None:
    detector = fitted(Training(images(4), tmp_path), coreset_ratio=0.3, distance=distance, neighbours=neighbours)
    test = images(3, seed=1)
    memory = detector.memory.vectors.double()
    for found, queries in zip(detector.score(test, CLASSES).maps[0], small_embedding(test), strict=True):
        if distance == "squared":
            wanted = smallest_distances(queries, memory, neighbours)
        else:
            wanted = torch.cdist(queries, memory).topk(neighbours, largest=False).values.mean(dim=1)
        close(found.flatten(), wanted)


def test_maps_have_the_grid_of_the_first_layer(tmp_path: Path) -> None:
    scores = fitted(Training(images(4), tmp_path)).score(images(3, seed=1), CLASSES)
    assert [values.shape for values in scores.maps] == [(3, 4, 4)]
    assert scores.images is None


def test_more_neighbours_than_the_memory_has(tmp_path: Path) -> None:
    detector = fitted(Training(images(3), tmp_path), coreset_ratio=0.05, neighbours=99)
    test = images(1, seed=1)
    memory = detector.memory.vectors
    assert len(memory) == 2
    close(detector.score(test, CLASSES[:1]).maps[0].flatten(), smallest_distances(small_embedding(test)[0], memory, 2))


def test_training_scores_of_a_whole_memory_are_those_of_a_memory_without_the_image(tmp_path: Path) -> None:
    train = images(5)
    known = fitted(Training(train, tmp_path / "all"), coreset_ratio=1.0).training_scores()
    assert known is not None
    for image in range(5):
        others = [i for i in range(5) if i != image]
        without = fitted(Training([m[others] for m in train], tmp_path / str(image)), coreset_ratio=1.0)
        close(known.maps[0][image], without.score([m[[image]] for m in train], CLASSES[:1]).maps[0][0])


def test_training_scores_step_by_step(tmp_path: Path) -> None:
    train = images(5)
    detector = fitted(Training(train, tmp_path), coreset_ratio=0.2)
    known = detector.training_scores()
    vectors = small_embedding(train)
    per_image, flat = vectors.shape[1], vectors.flatten(0, 1)
    picks, points = literal_choice(flat, len(detector.memory), seed=7)
    points_of = torch.tensor(points)
    radius = min(float((points_of[picks[-1]] - points_of[pick]).norm()) for pick in picks[:-1])
    used = []
    for image in range(5):
        # The rest of the memory, and what a coreset without the image would need in place of its patches.
        places = [pick for pick in picks if pick // per_image != image]
        rest = points_of[places]
        for pick in (pick for pick in picks if pick // per_image == image):
            distances = (points_of - points_of[pick]).norm(dim=1)
            distances[image * per_image : (image + 1) * per_image] = torch.inf
            place = int(distances.argmin())
            used.append(float((rest - points_of[place]).norm(dim=1).min()) > radius)
            places += [place] if used[-1] else []
        close(known.maps[0][image].flatten(), smallest_distances(vectors[image], flat[places]))
    assert {True, False} == set(used)


def test_copies_of_an_image_are_not_asked_about_each_other(tmp_path: Path) -> None:
    train = images(6)
    for values in train:
        values[4, :, :2, :2] += 4
    once = fitted(Training(train, tmp_path / "once"), coreset_ratio=1.0).training_scores()
    training = Training([values[[0, 1, 2, 3, 4, 5, 4, 4]] for values in train], tmp_path / "copies")
    training.contents = torch.tensor([0, 1, 2, 3, 4, 5, 4, 4])
    known = fitted(training, coreset_ratio=1.0).training_scores()
    for image, original in ((4, 4), (6, 4), (7, 4), (0, 0)):
        close(known.maps[0][image], once.maps[0][original])


def test_copies_of_one_image_alone_are_refused(tmp_path: Path) -> None:
    training = Training(images(3), tmp_path)
    training.contents = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(DataError, match="at least two different training images"):
        fitted(training)


def test_stand_ins_come_nearer_to_a_memory_without_the_image_than_leaving_its_patches_out_does(tmp_path: Path) -> None:
    count, deviations = 12, []
    for draw in range(10):
        train, folder = images(count, seed=draw), tmp_path / str(draw)
        detector = fitted(Training(train, folder / "all"), coreset_ratio=0.15)
        found = detector.training_scores().maps[0].flatten(1).amax(dim=1)
        vectors = small_embedding(train)
        picks, _ = literal_choice(vectors.flatten(0, 1), len(detector.memory), seed=7)
        owners = torch.tensor(picks) // vectors.shape[1]
        wanted, left_out = torch.empty(count), torch.empty(count)
        for image in range(count):
            others = [i for i in range(count) if i != image]
            refitted = fitted(Training([m[others] for m in train], folder / str(image)), coreset_ratio=0.15)
            wanted[image] = refitted.score([m[[image]] for m in train], CLASSES[:1]).maps[0].max()
            memory = vectors.flatten(0, 1)[picks][owners != image]
            left_out[image] = torch.cdist(vectors[image], memory).square().amin(dim=1).max()
        deviations.append(torch.stack([scores / wanted - 1 for scores in (found, left_out)]))
    whole = torch.cat(deviations, dim=1)
    assert whole[0].abs().mean() < whole[1].abs().mean()
    # Too high rather than too low, so that a threshold from these scores is careful, but less so.
    assert 0 < whole[0].mean() < 0.7 * whole[1].mean()


def test_an_image_unlike_the_others_is_found_although_the_memory_holds_it(tmp_path: Path) -> None:
    train = images(6)
    for values in train:
        values[4, :, :2, :2] += 4
    detector = fitted(Training(train, tmp_path), coreset_ratio=0.3)
    as_any_other = detector.score(train, CLASSES).maps[0].flatten(1).amax(dim=1)
    known = detector.training_scores().maps[0].flatten(1).amax(dim=1)
    assert as_any_other[4] < known[4] / 20
    assert known.argmax() == 4
    assert known[4] > 10 * known[[0, 1, 2, 3, 5]].max()


def test_a_memory_of_one_patch_still_tells_of_its_own_image(tmp_path: Path) -> None:
    known = fitted(Training(images(2), tmp_path), coreset_ratio=0.001).training_scores()
    assert bool((known.maps[0] > 0).any())
    assert bool(known.maps[0].isfinite().all())


def test_reweighted_image_scores(tmp_path: Path) -> None:
    detector = fitted(Training(images(5), tmp_path), coreset_ratio=0.3, distance="euclidean", reweighting=4)
    assert detector.evaluation_defaults().image_score == "own"
    test = images(3, seed=1)
    scores = detector.score(test, CLASSES)
    memory = detector.memory.vectors.double()
    for image, queries in enumerate(small_embedding(test)):
        distances = torch.cdist(queries, memory)
        patch = int(distances.amin(dim=1).argmax())
        nearest = int(distances[patch].argmin())
        around = (memory - memory[nearest]).norm(dim=1).argsort()[:4]
        assert int(around[0]) == nearest
        factor = 1 - distances[patch, nearest].exp() / distances[patch, around].exp().sum()
        close(scores.images[image], factor * distances[patch, nearest])
        close(scores.maps[0][image].flatten(), distances.amin(dim=1))
    assert detector.training_scores().images.shape == (5,)


def test_published_evaluation(tmp_path: Path) -> None:
    how = fitted(Training(images(2), tmp_path)).evaluation_defaults()
    assert (how.map_size, how.sigma, how.smoothing, how.image_score) == (224, 4.0, "gaussian", "patch-max")
    assert not how.align_corners


@pytest.mark.parametrize("options", [{}, {"reweighting": 3}])
def test_a_state_is_the_whole_detector(tmp_path: Path, options: dict[str, Any]) -> None:
    detector = fitted(Training(images(4), tmp_path), **options)
    again = PatchCore(detector.options, LAYERS, ["a", "b"])
    again.load_state(detector.state(), torch.device("cpu"))
    test = images(3, seed=2)
    for found, wanted in (
        (again.score(test, CLASSES), detector.score(test, CLASSES)),
        (again.training_scores(), detector.training_scores()),
    ):
        assert torch.equal(found.maps[0], wanted.maps[0])
        assert (found.images is None) == (wanted.images is None) == (not options)
    assert all(again.state()[name].equal(values) for name, values in detector.state().items())


def test_a_killed_fit_goes_on_from_its_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fitted(Training(images(4), tmp_path / "a")).state()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    training = Training(images(4), tmp_path / "b")
    with monkeypatch.context() as patch:
        patch.setattr(PatchCore, "_score_training", killed)
        with pytest.raises(KeyboardInterrupt):
            fitted(training)
    monkeypatch.setattr(PatchCore, "_choose", killed)
    assert all(values.equal(first[name]) for name, values in fitted(training).state().items())


def test_the_seed_decides(tmp_path: Path) -> None:
    first, again, other = (
        fitted(Training(images(4), tmp_path / str(i), seed=seed)).memory.vectors for i, seed in enumerate((1, 1, 2))
    )
    assert first.equal(again)
    assert not first.equal(other)


def test_an_image_s_scores_do_not_depend_on_its_batch(tmp_path: Path) -> None:
    detector = fitted(Training(images(4), tmp_path))
    test = images(3, seed=1)
    together = detector.score(test, CLASSES).maps[0]
    alone = [detector.score([m[[i]] for m in test], CLASSES[:1]).maps[0][0] for i in range(3)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-5, atol=1e-6)


def test_one_training_image_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'patchcore' needs at least two different training images"):
        fitted(Training(images(1), tmp_path))


def test_neighbours_and_reweighting_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="leave out neighbours"):
        PatchCoreOptions(neighbours=2, reweighting=9)
