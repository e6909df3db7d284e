"""The pictures of the review: the run's own pixels, heatmaps in their place, and the nearest normal patch."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from review_cases import Desk, decide

from meds.core import scoring
from meds.core.errors import DataError, PluginError
from meds.review.nearest import SUPERSEDED, Missing, NearestNormal, Neighbour
from meds.review.pictures import ReviewPictures
from meds.review.ranking import Item


@pytest.fixture
def desk(finished: Any) -> Desk:
    return Desk(finished.runs / "tiny")


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_pictures_show_the_run_s_images(desk: Desk) -> None:
    client, item = desk.client(), desk.review.items[3]
    pixels = desk.run.pipeline.dataset.read_image(item.sample.record)
    shown = {
        kind: opened(client.get(f"/picture/{item.digest}/{kind}").content)
        for kind in ("thumbnail", "view", "full", "heatmap", "hottest")
    }
    np.testing.assert_array_equal(np.asarray(shown["full"]), pixels)
    other = desk.run.pipeline.dataset.read_image(desk.review.items[4].sample.record)
    for kind in ("thumbnail", "view"):
        lossy = np.asarray(shown[kind]).astype(int)
        # A drawn weave is hard on JPEG: its finest grain is lost at a quality of 85.
        assert np.abs(lossy - pixels).mean() < min(8, np.abs(lossy - other).mean() / 2)
    assert (shown["heatmap"].mode, shown["heatmap"].size) == ("RGBA", (64, 64))
    assert shown["hottest"].size == (288, 288)
    answer = client.get(f"/picture/{item.digest}/view")
    assert (answer.headers["content-type"], answer.headers["cache-control"]) == ("image/jpeg", "private, max-age=3600")


def test_large_images_are_made_smaller_and_keep_their_proportions(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meds.review.pictures.VIEW", 48)
    monkeypatch.setattr("meds.review.pictures.THUMBNAIL", 16)
    pictures, item = ReviewPictures(desk.run), desk.review.items[0]
    monkeypatch.setattr(pictures, "_read", lambda item: np.zeros((30, 120, 3), np.uint8))
    pictures._pixels = pictures._read
    assert pictures.size(item) == (120, 30)
    assert opened(pictures.view(item)).size == (48, 12)
    assert opened(pictures.thumbnail(item)).size == (16, 4)


def test_the_heatmap_is_the_run_s_map_in_the_class_s_colours(desk: Desk) -> None:
    pictures = ReviewPictures(desk.run)
    maps = desk.run.evaluation.tensors("maps")["train"].float()
    smoothed = scoring.smooth(scoring.pixel_map([maps], desk.run.evaluation_settings), desk.run.evaluation_settings)
    for item in desk.review.items[:5]:
        colours = np.asarray(opened(pictures.heatmap(item))).astype(int)
        values = smoothed[item.position].numpy()
        low, high = desk.run.metrics["calibration"][item.class_name]["heatmap"]
        share = (values - low) / (high - low)
        assert (colours[..., 3][share <= 0.24] == 0).all()
        assert (colours[..., 3][share >= 0.76] == 255).all()
        bright = colours[..., :3].sum(axis=2)
        hottest = np.unravel_index(values.argmax(), values.shape)
        assert bright[hottest] == bright.max()


def test_the_crop_holds_the_patch_in_its_frame(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    nearest, pictures, item = NearestNormal(desk.run, desk.review), ReviewPictures(desk.run), desk.review.items[0]
    rows, columns = nearest.grid
    canvas = np.zeros((240, 400, 3), np.uint8)
    patch = (rows - 1, 1)
    height, width = 240 / rows, 400 / columns
    canvas[round(height * (rows - 1)) :, round(width) : round(2 * width)] = (0, 200, 0)
    monkeypatch.setattr(pictures, "_pixels", lambda item: canvas)
    crop = np.asarray(opened(pictures.crop(item, patch))).astype(int)
    green = (crop[..., 1] > 150) & (crop[..., 0] < 100)
    white = crop.min(axis=2) > 180
    assert green.any()
    for axis in (0, 1):
        inside, frame = np.flatnonzero(green.any(axis=axis)), np.flatnonzero(white.any(axis=axis))
        assert frame.min() - 2 <= inside.min()
        assert inside.max() <= frame.max() + 8


def test_an_image_that_has_changed_is_not_shown_as_what_it_was(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    client, item = desk.client(), desk.review.items[0]
    monkeypatch.setattr(desk.run.pipeline.dataset, "digest", lambda record: "0" * 64)
    answer = client.get(f"/picture/{item.digest}/view")
    assert (answer.status_code, "not the image any more" in answer.text) == (404, True)
    html = client.get("/image/1").text
    assert "The image cannot be shown." in html
    assert f"/picture/{item.digest}/view" not in html

    def gone(record: Any) -> str:
        raise DataError(f"{record.path}: there is no such file")

    monkeypatch.setattr(desk.run.pipeline.dataset, "digest", gone)
    assert "there is no such file" in client.get("/image/2").text
    assert client.get("/").status_code == 200


def slow_nearest(desk: Desk, item: Item, patch: tuple[int, int], candidates: list[Item]) -> list[tuple[float, Any]]:
    """Every patch of every candidate with its distance, one after the other, nearest first."""
    cache, grid = desk.run.pipeline.features, NearestNormal(desk.run, desk.review).grid
    layers = desk.run.pipeline.student_layers

    def on_grid(values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(values[None], size=grid, mode="bilinear", align_corners=False)[0]

    found = []
    for other in candidates:
        total = torch.zeros(grid)
        for layer in layers:
            mine = on_grid(cache.read([item.digest], layer)[0].float())[:, patch[0], patch[1]]
            theirs = cache.read([other.digest], layer)[0].float()
            plane = torch.zeros(theirs.shape[1:])
            for row in range(plane.shape[0]):
                for column in range(plane.shape[1]):
                    vector = theirs[:, row, column]
                    plane[row, column] = 1 - (mine @ vector) / (mine.norm() * vector.norm())
            total += on_grid(plane[None])[0]
        for row in range(grid[0]):
            for column in range(grid[1]):
                found.append((float(total[row, column]) / len(layers), (other.digest, (row, column))))
    return sorted(found, key=lambda entry: entry[0])


def test_the_nearest_normal_patch_is_found(desk: Desk) -> None:
    nearest, items = NearestNormal(desk.run, desk.review), desk.review.items
    item = items[0]
    maps = desk.run.evaluation.tensors("maps")["train"][item.position]
    assert maps[nearest.hottest(item)] == maps.max()
    normal = [o for o in items if o.class_name == item.class_name and o.selected and o.digest != item.digest]
    desk.review.decide(normal[0].digest, "defect")
    found = nearest.of(item)
    assert isinstance(found, Neighbour)
    reference = slow_nearest(desk, item, nearest.hottest(item), normal[1:])
    distance, (digest, patch) = reference[0]
    assert found.distance == pytest.approx(distance, abs=1e-5)
    assert (found.item.digest, found.patch) == (digest, patch)
    assert nearest.of(item) is found
    desk.review.decide(found.item.digest, "defect")
    assert nearest.of(item) not in (found, None)


def test_tokens_of_a_transformer_are_no_patches(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    item, features = desk.review.items[0], desk.run.pipeline.features
    found = NearestNormal(desk.run, desk.review).of(item)
    read, missing = features.read, features.missing

    def with_tokens(digests: list[str], layer: str) -> torch.Tensor:
        tokens = torch.randn(len(digests), 16, 1, 5, generator=torch.Generator().manual_seed(0))
        return tokens if layer == "prefix0" else read(digests, layer)

    monkeypatch.setattr(features, "read", with_tokens)
    monkeypatch.setattr(
        features, "missing", lambda digests, layers: missing(digests, [n for n in layers if n != "prefix0"])
    )
    again = NearestNormal(desk.run, desk.review)
    again.__dict__["_layers"] = (*desk.run.pipeline.student_layers, "prefix0")
    assert again.of(item) == found


def test_an_image_is_not_its_own_neighbour(desk: Desk) -> None:
    item = next(item for item in desk.review.items if item.selected)
    found = NearestNormal(desk.run, desk.review).of(item)
    assert isinstance(found, Neighbour)
    assert found.item.digest != item.digest


def test_the_page_shows_both_crops(desk: Desk) -> None:
    client, item = desk.client(), desk.review.items[0]
    html = client.get(f"/nearest/{item.digest}").text
    for address in re.findall(r'src="([^"]+)"', html):
        assert opened(client.get(address).content).size == (288, 288)
    assert re.search(r"Distance \d", html)


def test_without_features_a_sentence_says_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    # The folder belongs to all tests, so it is not emptied here.
    monkeypatch.setattr(desk.run.pipeline.features, "folder", desk.path / "no features")
    desk.run.pipeline.features._places.clear()
    client, item = desk.client(), desk.review.items[0]
    answer = client.get(f"/nearest/{item.digest}")
    assert answer.status_code == 200
    assert "no longer in the cache, so the nearest normal patch cannot be shown." in " ".join(answer.text.split())
    assert client.get(f"/picture/{item.digest}/nearest").status_code == 404
    assert client.get(f"/picture/{item.digest}/hottest").status_code == 200


def test_without_other_normal_images_a_sentence_says_so(desk: Desk) -> None:
    item = desk.review.items[0]
    desk.review.items = tuple(replace(other, selected=False) for other in desk.review.items)
    found = NearestNormal(desk.run, desk.review).of(item)
    assert isinstance(found, Missing)
    assert found.reason.startswith("There is no other normal image of this class")


def test_a_search_that_nobody_waits_for_is_given_up(desk: Desk) -> None:
    nearest, item = NearestNormal(desk.run, desk.review), desk.review.items[0]
    assert nearest._search(item, ticket=-1) is SUPERSEDED
    assert isinstance(nearest.of(item), Neighbour)


def test_without_the_encoder_images_are_still_judged(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_weights(_: Any) -> None:
        raise PluginError("Its weights are not installed.")

    monkeypatch.setattr("meds.core.pipeline.Pipeline.backbone", property(no_weights))
    client, item = desk.client(), desk.review.items[0]
    assert client.get(f"/picture/{item.digest}/view").status_code == 200
    answer = client.get(f"/picture/{item.digest}/heatmap")
    assert (answer.status_code, "Its weights are not installed." in answer.text) == (404, True)
    assert "Its weights are not installed." in client.get(f"/nearest/{item.digest}").text
    decide(client, item.digest, "defect")
    assert desk.verdicts() == {item.digest: "defect"}
