"""Outlier factors against scikit-learn and the textbook, place by place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from meds_softpatch import outliers
from meds_softpatch.outliers import gaussian_distances, local_outlier_factors, nearest_distances
from sklearn.neighbors import LocalOutlierFactor
from torch import Tensor


def vectors(places: int, count: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(places, count, width, generator=generator) + 10 * torch.randn(
        places, 1, width, generator=generator
    )
    found[:, -1] += 3
    return found


def of_sklearn(values: Tensor, k: int) -> Tensor:
    found = []
    for place in values.double().numpy():
        estimator = LocalOutlierFactor(n_neighbors=min(k, len(place) - 1), metric="l2").fit(place)
        found.append(-estimator.negative_outlier_factor_)
    return torch.from_numpy(np.stack(found))


@pytest.mark.parametrize(("places", "count", "k"), [(1, 2, 1), (3, 20, 5), (4, 30, 12), (2, 6, 5), (2, 4, 50)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_local_outlier_factors_are_scikit_learn_s(
    places: int, count: int, k: int, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outliers, "_BLOCK_ELEMENTS", 500)
    values = vectors(places, count, 8)
    found = local_outlier_factors(values.to(dtype), k)
    torch.testing.assert_close(found.double(), of_sklearn(values, k), rtol=tolerance, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_that_occur_twice(dtype: torch.dtype) -> None:
    values = vectors(3, 10, 8).repeat(1, 2, 1)
    found = local_outlier_factors(values.to(dtype), 5)
    torch.testing.assert_close(found.double(), of_sklearn(values, 5), rtol=1e-4, atol=0)


def test_images_that_are_all_alike_are_inliers() -> None:
    assert local_outlier_factors(vectors(2, 1, 8).repeat(1, 9, 1), 5).tolist() == [[1.0] * 9] * 2


def test_a_place_does_not_see_another() -> None:
    values = vectors(4, 12, 6)
    together = local_outlier_factors(values, 5)
    alone = torch.cat([local_outlier_factors(values[[place]], 5) for place in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=0)


def test_nearest_distances() -> None:
    values = vectors(3, 9, 5).double()
    wanted = torch.empty(3, 9, dtype=torch.float64)
    for place in range(3):
        for image in range(9):
            distances = [(values[place, image] - values[place, j]).norm() for j in range(9) if j != image]
            wanted[place, image] = 1 + min(distances)
    torch.testing.assert_close(nearest_distances(values), wanted)


@pytest.mark.parametrize("count", [2, 4, 30])
def test_gaussian_distances(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outliers, "_BLOCK_ELEMENTS", 50)
    values = vectors(3, count, 5)
    wanted = []
    for place in values.double().numpy():
        apart = place - place.mean(axis=0)
        inverse = np.linalg.inv(np.cov(place.T) + 0.01 * np.eye(5))
        wanted.append([1 + np.sqrt(row @ inverse @ row) for row in apart])
    found = gaussian_distances(values)
    torch.testing.assert_close(found.double(), torch.from_numpy(np.array(wanted)), rtol=1e-4, atol=0)
