"""InReaCh as a whole: its memory against a literal reference, training scores, classes, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inreach_cases import LAYERS, SMALL, Training, maps_of, published_channels, published_kept, published_patches
from meds_inreach import InReaChOptions, meds_students
from meds_inreach.detector import InReaCh
from torch import Tensor

from meds.api import PluginError


def fitted(folder: Path, maps: list[Tensor], classes: list[int] | None = None, **options: Any) -> InReaCh:
    detector = InReaCh(InReaChOptions(**{**SMALL, **options}), LAYERS, ["a", "b"])
    training: Any = Training(maps, folder, classes)
    detector.fit(training)
    return detector


def reference(maps: list[Tensor], new: list[Tensor], options: InReaChOptions, without: int | None = None) -> np.ndarray:
    """Squared distances [n, P] of new images to the memory of training images whose seeds are the first ones."""
    images = published_patches(maps, options, 4).numpy().astype(np.float64)
    channels = published_channels(images, options.seeds, options.best_seed, options.swapped_indices)
    kept = published_kept(images, channels, options)
    memory = np.stack([images[i, p] for i, p in sorted(kept) if i != without])
    patches = published_patches(new, options, 4).numpy().astype(np.float64)
    return ((patches[:, :, None] - memory) ** 2).sum(axis=3).min(axis=2)


@pytest.mark.parametrize(
    "changes", [{}, {"best_seed": "any", "swapped_indices": True}, {"max_channel_std": 2.0, "spread": "rms"}]
)
def test_scores_are_distances_to_the_patches_that_images_agree_on(tmp_path: Path, changes: dict[str, Any]) -> None:
    maps, new = maps_of(9), maps_of(3, seed=5)
    options = InReaChOptions(**{**SMALL, "seed_images": "first", **changes})
    detector = fitted(tmp_path, maps, seed_images="first", **changes)
    scores = detector.score(new, torch.zeros(3, dtype=torch.int64))
    assert scores.maps[0].shape == (3, 4, 4)
    np.testing.assert_allclose(scores.maps[0].flatten(1), reference(maps, new, options), rtol=1e-4)


def test_plain_distances_are_roots(tmp_path: Path) -> None:
    maps, classes = maps_of(9), torch.zeros(9, dtype=torch.int64)
    squared = fitted(tmp_path / "a", maps).score(maps_of(9, seed=3), classes).maps[0]
    plain = fitted(tmp_path / "b", maps, distance="euclidean").score(maps_of(9, seed=3), classes).maps[0]
    torch.testing.assert_close(plain.square(), squared)


def test_training_images_do_not_find_their_own_patches(tmp_path: Path) -> None:
    maps = maps_of(9)
    options = InReaChOptions(**{**SMALL, "seed_images": "first"})
    detector = fitted(tmp_path, maps, seed_images="first")
    known = detector.training_scores()
    assert known is not None
    for image in range(9):
        one = [values[image : image + 1] for values in maps]
        wanted = reference(maps, one, options, without=image)[0]
        np.testing.assert_allclose(known.maps[0][image].flatten(), wanted, rtol=1e-4)
    own = detector.score(maps, torch.zeros(9, dtype=torch.int64)).maps[0]
    assert (own == 0).any()
    assert (known.maps[0] > 0).all()


def test_copies_of_an_image_are_passed_over_with_it(tmp_path: Path) -> None:
    maps = [values[[0, 1, 2, 3, 4, 5, 6, 7, 7]] for values in maps_of(8)]
    training: Any = Training(maps, tmp_path)
    training.contents = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 7])
    detector = InReaCh(InReaChOptions(**{**SMALL, "seed_images": "first"}), LAYERS, ["a"])
    detector.fit(training)
    known = detector.training_scores()
    assert known is not None
    torch.testing.assert_close(known.maps[0][7], known.maps[0][8])
    assert (known.maps[0] > 0).all()


def test_seeds_are_drawn_from_all_images_and_scores_stay_in_the_images_order(tmp_path: Path) -> None:
    maps = maps_of(9)
    maps[0][4] += 3  # an image unlike the others
    detector = fitted(tmp_path, maps)
    known = detector.training_scores()
    assert known is not None
    assert int(known.maps[0].flatten(1).mean(dim=1).argmax()) == 4
    other = InReaCh(InReaChOptions(**SMALL), LAYERS, ["a", "b"])
    training: Any = Training(maps, tmp_path / "other")
    training.seed = 8
    other.fit(training)
    assert not torch.equal(other.state()["owners.0"], detector.state()["owners.0"])


def test_every_class_has_a_memory_of_its_own(tmp_path: Path) -> None:
    first, second = maps_of(8), [values + 2 for values in maps_of(8, seed=1)]
    mixed = [torch.stack([a, b], dim=1).flatten(0, 1) for a, b in zip(first, second, strict=True)]
    together = fitted(tmp_path / "both", mixed, [0, 1] * 8, seed_images="first")
    alone = [fitted(tmp_path / str(i), maps, seed_images="first") for i, maps in enumerate((first, second))]
    new = maps_of(2, seed=9)
    scores = together.score(new, torch.tensor([1, 0])).maps[0]
    zeros = torch.zeros(2, dtype=torch.int64)
    assert torch.equal(scores[0], alone[1].score(new, zeros).maps[0][0])
    assert torch.equal(scores[1], alone[0].score(new, zeros).maps[0][1])
    known, parts = together.training_scores(), [part.training_scores() for part in alone]
    assert known is not None
    for i, part in enumerate(parts):
        assert part is not None
        assert torch.equal(known.maps[0][i::2], part.maps[0])


def test_places_belong_to_vectors_where_they_matter(tmp_path: Path) -> None:
    maps = maps_of(9)
    detector = fitted(tmp_path, maps, position="always")
    assert detector.state()["vectors.0"].shape[1] == 12
    turned = [values.flip(-1) for values in maps_of(1, seed=4)]
    other = InReaCh(InReaChOptions(**{**SMALL, "position": "always"}), LAYERS, ["a"])
    other.load_state(detector.state(), torch.device("cpu"))
    classes = torch.zeros(1, dtype=torch.int64)
    placed, plain = other.score(turned, classes).maps[0], fitted(tmp_path / "b", maps).score(turned, classes).maps[0]
    assert placed.mean() > plain.mean()


def test_a_stopped_fit_goes_on_and_ends_in_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDS_CHECKPOINT_SECONDS", "0")
    maps, classes = maps_of(12), [0, 1] * 6
    whole = fitted(tmp_path / "whole", maps, classes).state()
    seen: list[int | None] = []

    def patched(stop: int | None) -> Any:
        from meds_inreach.memory import PatchMemory

        original = PatchMemory.squared_distances

        def count(self: Any, patches: Tensor, without: int | None = None) -> Tensor:
            if len(seen) == stop:
                raise KeyboardInterrupt
            seen.append(without)
            return original(self, patches, without)

        return count

    for stop in (4, 9, None):
        with monkeypatch.context() as patch:
            patch.setattr("meds_inreach.memory.PatchMemory.squared_distances", patched(stop))
            if stop is not None:
                with pytest.raises(KeyboardInterrupt):
                    fitted(tmp_path / "stopped", maps, classes)
            else:
                again = fitted(tmp_path / "stopped", maps, classes).state()
    assert len(seen) == 12
    assert whole.keys() == again.keys()
    for name, value in whole.items():
        assert torch.equal(value, again[name]), name


def test_images_that_agree_on_nothing_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="found no patches that more than 3 of 3 training images of a class agree on"):
        fitted(tmp_path, maps_of(3))


def test_the_released_recipe_is_made_of_options() -> None:
    (plugin,) = meds_students()
    changed = InReaChOptions(**plugin.recipes["released"]).model_dump(exclude_defaults=True)
    assert changed == plugin.recipes["released"]
