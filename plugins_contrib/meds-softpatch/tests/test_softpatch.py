"""SoftPatch: what is removed, what weighs how much, and class by class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from meds_softpatch.detector import _quantile
from sklearn.neighbors import LocalOutlierFactor
from softpatch_cases import PLAIN, Training, fitted, images, new, patches_of
from torch import Tensor

from meds.api import DataError, PatchWeights, TrainingPatches, random_projection


def weights_of(training: Any, **options: Any) -> PatchWeights:
    detector = new(**options)
    patches = TrainingPatches(training, detector._embedding, 9)
    return detector.weigh(training, patches, torch.Generator().manual_seed(training.seed))


def literal_factors(maps: Tensor, seed: int, k: int) -> Tensor:
    """scikit-learn's factors for one place after the other: [n, 9]."""
    matrix = random_projection(6, PLAIN["projection"], torch.Generator().manual_seed(seed))
    projected = (patches_of(maps) @ matrix).double().numpy()
    found = np.empty(projected.shape[:2])
    for place in range(projected.shape[1]):
        estimator = LocalOutlierFactor(n_neighbors=k, metric="l2").fit(projected[:, place])
        found[:, place] = -estimator.negative_outlier_factor_
    return torch.from_numpy(found)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [5, 2])
def test_weights_are_the_factors_at_each_place(tmp_path: Path, k: int) -> None:
    train = images(12)
    weights = weights_of(Training(train, tmp_path), **({} if k == 5 else {"lof_k": k}))
    wanted = literal_factors(train, 7, k)
    close(weights.score.view(12, 9), wanted)
    assert weights.choice.view(12, 9).tolist() == (wanted <= np.quantile(wanted, 0.85)).float().tolist()


def test_each_class_is_judged_alone_where_classes_are_fitted_together(tmp_path: Path) -> None:
    nuts, bolts = images(8, seed=1), 3 - 2 * images(11, seed=2)
    # The classes take turns, so that their images do not lie side by side.
    order = torch.randperm(19, generator=torch.Generator().manual_seed(0))
    classes = (order >= 8).long()
    together = weights_of(Training(torch.cat([nuts, bolts])[order], tmp_path, classes.tolist()), threshold=0.3)
    for index, maps in enumerate((nuts, bolts)):
        images_of = order[classes == index] - 8 * index
        alone = weights_of(Training(maps[images_of], tmp_path), threshold=0.3)
        close(together.score.view(19, 9)[classes == index], alone.score.view(-1, 9))
        assert together.choice.view(19, 9)[classes == index].equal(alone.choice.view(-1, 9))


@pytest.mark.parametrize("discriminator", ["lof", "nearest", "gaussian"])
def test_outlying_patches_are_not_remembered(tmp_path: Path, discriminator: str) -> None:
    train = images(12)
    train[5, :, 1, 1] += 30
    training = Training(train, tmp_path)
    detector = fitted(training, discriminator=discriminator, coreset_ratio=0.7)
    memory = detector.memory.vectors
    assert (memory - patches_of(train)[5, 4]).norm(dim=1).min() > 10
    known = detector.training_scores().maps[0]
    assert known.flatten().argmax() == 5 * 9 + 4
    weights = weights_of(training, discriminator=discriminator)
    assert weights.choice.mean() == pytest.approx(0.85, abs=0.01)
    assert bool((weights.score > 0).all())


def test_scores_are_distances_times_the_factor_of_the_nearest(tmp_path: Path) -> None:
    training = Training(images(12), tmp_path)
    detector = fitted(training, coreset_ratio=0.3)
    train, factors = patches_of(training.maps).flatten(0, 1), weights_of(training).score
    test = images(3, seed=5)
    found = detector.score([test], torch.zeros(3, dtype=torch.int64)).maps[0].flatten(1)
    for image, queries in enumerate(patches_of(test)):
        for place, query in enumerate(queries):
            distances = (detector.memory.vectors - query).square().sum(dim=1)
            source = (train - detector.memory.vectors[distances.argmin()]).norm(dim=1).argmin()
            close(found[image, place], distances.min() * factors[source])


def test_training_scores_of_a_whole_memory_pass_over_the_image_itself(tmp_path: Path) -> None:
    training = Training(images(10), tmp_path)
    detector = fitted(training, coreset_ratio=1.0, threshold=0.2)
    weights = weights_of(training, threshold=0.2)
    vectors, kept = patches_of(training.maps), weights.choice.view(10, 9).bool()
    # Every patch that was kept is in the memory, and so is every stand-in.
    for image in range(10):
        others = torch.arange(10) != image
        allowed = kept & others[:, None]
        memory, factors = vectors[allowed], weights.score.view(10, 9)[allowed]
        squared = torch.cdist(vectors[image].double(), memory.double()).square()
        nearest = squared.min(dim=1)
        close(detector.training_scores().maps[0][image].flatten(), nearest.values * factors[nearest.indices])


def test_distances_without_soft_weights(tmp_path: Path) -> None:
    detector = fitted(Training(images(12), tmp_path), soft_weights=False)
    assert detector.memory.weights is None
    assert "weights" not in detector.state()
    test = images(2, seed=5)
    found = detector.score([test], torch.zeros(2, dtype=torch.int64)).maps[0].flatten(1)
    close(found, torch.cdist(patches_of(test), detector.memory.vectors.expand(2, -1, -1)).square().amin(dim=2))


def test_the_first_pick_is_kept_unless_the_published_way_is_asked_for(tmp_path: Path) -> None:
    train = images(12)
    train[5, :, 1, 1] += 300
    outlier = patches_of(train)[5, 4]
    mended = fitted(Training(train, tmp_path / "a")).memory.vectors
    published = fitted(Training(train, tmp_path / "b"), removed_may_start=True).memory.vectors
    assert not any(row.equal(outlier) for row in mended)
    assert published[0].equal(outlier)


def test_nothing_is_removed_at_a_threshold_of_nothing(tmp_path: Path) -> None:
    assert bool(weights_of(Training(images(9), tmp_path), threshold=0.0).choice.all())


def test_a_state_is_the_whole_detector(tmp_path: Path) -> None:
    detector = fitted(Training(images(8), tmp_path))
    again = new()
    again.load_state(detector.state(), torch.device("cpu"))
    test, classes = images(2, seed=3), torch.zeros(2, dtype=torch.int64)
    assert again.score([test], classes).maps[0].equal(detector.score([test], classes).maps[0])
    assert again.training_scores().maps[0].equal(detector.training_scores().maps[0])
    assert set(again.state()) == {"memory", "weights", "training_maps"}


def test_an_option_of_another_discriminator_is_refused() -> None:
    with pytest.raises(ValueError, match="lof_k is for the discriminator lof"):
        new(discriminator="nearest", lof_k=6)


def test_a_class_with_one_image_cannot_be_judged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the class 'bolt' has only one"):
        fitted(Training(images(5), tmp_path, [0, 0, 1, 0, 0]))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.85, 1.0])
def test_quantiles_are_numpy_s(share: float) -> None:
    values = torch.randn(7, 13, generator=torch.Generator().manual_seed(0))
    assert float(_quantile(values, share)) == pytest.approx(float(np.quantile(values.numpy(), share)), rel=1e-6)
