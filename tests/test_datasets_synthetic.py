"""The dataset `synthetic`: its records, exact masks, determinism and refused options."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError

from meds.core.dataset import Record
from meds.core.errors import DataError
from meds.plugins.datasets.synthetic import SyntheticDataset, SyntheticOptions
from meds.plugins.datasets.synthetic_defects import SURFACES


def small(**options: object) -> SyntheticDataset:
    return SyntheticDataset(SyntheticOptions(**{"image_size": 64, "train": 3, **options}))


def test_synthetic_records() -> None:
    records = SyntheticDataset(SyntheticOptions()).records()
    assert Counter((r.class_name, r.split, r.label) for r in records) == {
        (name, split, label): count
        for name in ("weave", "tiles", "discs")
        for split, label, count in (("train", 0, 40), ("test", 0, 12), ("test", 1, 18))
    }
    assert records[3].path == "synthetic/weave/train/0003.png"
    assert len({r.path for r in records}) == len(records)
    assert len({r.defect for r in records if r.class_name == "weave"}) == 6


@pytest.mark.parametrize("name", list(SURFACES))
def test_synthetic_masks_are_exact(name: str) -> None:
    dataset = small(classes=[name])
    for record in dataset.records():
        image, mask = dataset.read_image(record), dataset.read_mask(record)
        assert image.shape == (64, 64, 3)
        assert image.dtype == np.uint8
        assert image.std() > 5
        assert (mask is None) == (record.label == 0)
        assert dataset.image_size(record) == (64, 64)
        if mask is not None:
            assert 0 < mask.mean() < 0.25
            assert dataset.mask_size(record) == (64, 64)
            clean = dataset._draw(record.path)[1]
            assert np.array_equal(mask, (image != clean).any(axis=2))


def test_synthetic_images_depend_on_nothing_else() -> None:
    few, many = small(classes=["weave"]), small(classes=["tiles", "weave"], train=9, test_defective=30)
    known = {record.path: many.digest(record) for record in many.records()}
    assert all(few.digest(record) == known[record.path] for record in few.records())
    assert len(set(known.values())) == len(known)
    reseeded = small(classes=["weave"], seed=1)
    assert not set(known.values()) & {reseeded.digest(record) for record in reseeded.records()}


def test_synthetic_contrast_changes_the_defects_only() -> None:
    faint, strong = small(contrast=0.3), small(contrast=1.0)

    def difference(dataset: SyntheticDataset, record: Record) -> float:
        image, clean = dataset._draw(record.path)
        return float(np.abs(image.astype(int) - clean).sum())

    for record in strong.records():
        if record.label == 0:
            assert faint.digest(record) == strong.digest(record)
        else:
            assert 0 < difference(faint, record) < difference(strong, record)


def test_synthetic_defects_are_never_invisible() -> None:
    dataset = small(image_size=32, contrast=0.1, classes=list(SURFACES), test_defective=40)
    assert all(
        dataset._draw(r.path)[0].tobytes() != dataset._draw(r.path)[1].tobytes() for r in dataset.records()[-40:]
    )


@pytest.mark.parametrize(
    "path", ["synthetic/weave/train/x.png", "synthetic/wool/train/0001.png", "a.png", "synthetic/weave/0.png"]
)
def test_synthetic_refuses_other_paths(path: str) -> None:
    with pytest.raises(DataError, match="no such image"):
        small().read_image(Record(path, "weave", "train"))


@pytest.mark.parametrize("options", [{"classes": ["wool"]}, {"classes": []}, {"classes": ["weave", "weave"]}])
def test_synthetic_options_that_do_not_fit(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        small(**options)
