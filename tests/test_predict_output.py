"""The folder that `meds predict` writes into: nothing of the user's is lost, and a former call's files are kept."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished
from PIL import Image

from meds.core.errors import UserError
from meds.core.image_files import DRAWN
from meds.core.prediction_folder import COLUMNS, UNFINISHED, begin, check_output, put_away, writing_into

HEADER = ",".join(COLUMNS) + "\n"


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def called(output: Path, text: str, pictures: bool = True, stopped: bool = False) -> Path | None:
    """What a call leaves that writes `text` everywhere."""
    place = None
    with suppress(KeyboardInterrupt), writing_into(output):
        place = _write(output, text, pictures)
        if stopped:
            raise KeyboardInterrupt
    return place


def _write(output: Path, text: str, pictures: bool) -> Path | None:
    check_output(output, pictures)
    place = put_away(output)
    begin(output, pictures)
    put(output / "predictions.csv", HEADER + text)
    put(output / "predictions.jsonl", text)
    for kind in ("heatmaps", "masks") if pictures else ():
        put(output / kind / f"{text}.png")
    return place


def tree(folder: Path) -> set[str]:
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in files if not name.startswith(".")}


def whole(text: str) -> set[str]:
    pictures = {f"{kind}/{name}" for kind in ("heatmaps", "masks") for name in (f"{text}.png", DRAWN)}
    return {"predictions.csv", "predictions.jsonl", *pictures}


def test_a_former_call_is_put_away_whole(tmp_path: Path) -> None:
    assert called(tmp_path, "a") is None
    assert tree(tmp_path) == whole("a")
    for text, before in (("b", "a"), ("c", "b")):
        assert called(tmp_path, text) == tmp_path / "earlier"
        assert tree(tmp_path) == whole(text) | {f"earlier/{name}" for name in whole(before)}
        assert (tmp_path / "earlier" / "predictions.csv").read_text() == HEADER + before
    assert called(tmp_path, "d", pictures=False) == tmp_path / "earlier"
    assert tree(tmp_path) == {"predictions.csv", "predictions.jsonl"} | {f"earlier/{name}" for name in whole("c")}


def test_a_call_that_was_stopped_takes_the_place_of_no_whole_one(tmp_path: Path) -> None:
    called(tmp_path, "yesterday")
    assert called(tmp_path, "today", stopped=True) == tmp_path / "earlier"
    assert (tmp_path / UNFINISHED).is_file()
    assert called(tmp_path, "again") == tmp_path / "unfinished"
    assert not (tmp_path / UNFINISHED).exists()
    assert tree(tmp_path / "earlier") == whole("yesterday")
    assert tree(tmp_path / "unfinished") == whole("today") | {UNFINISHED}


@pytest.mark.parametrize("moved", range(1, 6))
def test_a_kill_while_files_are_put_away_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    called(tmp_path, "yesterday")
    called(tmp_path, "today", stopped=True)
    real, count = Path.replace, iter(range(9))

    def killed(self: Path, target: Path) -> Path:
        if next(count) == moved:
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            put_away(tmp_path)
    assert called(tmp_path, "again") == tmp_path / "unfinished"
    assert tree(tmp_path) == whole("again") | {
        *(f"earlier/{name}" for name in whole("yesterday")),
        *(f"unfinished/{name}" for name in whole("today") | {UNFINISHED}),
    }


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["masks/img.png"], "masks holds files that `meds predict` did not draw and would overwrite, such as img.png;"),
        (["heatmaps/a\nb"], r"would overwrite, such as a\\nb; give another folder with --output, or move them\."),
        (["heatmaps"], "heatmaps is a file, and a folder of that name is needed;"),
        (["predictions.csv"], r"predictions\.csv is not a table of `meds predict`, which would replace it;"),
        (["predictions.jsonl"], r"predictions\.jsonl is not a table of `meds predict`"),
    ],
)
def test_files_of_the_user_are_not_overwritten(tmp_path: Path, names: list[str], sentence: str) -> None:
    for name in names:
        put(tmp_path / name, "path,label\n")
    with pytest.raises(UserError, match=sentence):
        check_output(tmp_path, pictures=True)


def test_what_no_call_writes_may_lie_there(tmp_path: Path) -> None:
    put(tmp_path / "masks/.DS_Store")
    put(tmp_path / "earlier/notes.txt")
    check_output(tmp_path, pictures=True)
    put(tmp_path / "masks/own.png")
    check_output(tmp_path, pictures=False)
    called(tmp_path, "a", pictures=False)
    with pytest.raises(UserError, match=r"earlier holds files that no earlier call .* such as notes\.txt;"):
        check_output(tmp_path, pictures=False)
    (tmp_path / "earlier/notes.txt").unlink()
    put(tmp_path / "earlier/Thumbs.db")
    called(tmp_path, "b", pictures=False)
    assert (tmp_path / "masks/own.png").is_file()


def test_images_that_would_be_put_away_are_refused(tmp_path: Path) -> None:
    called(tmp_path, "a")
    (tmp_path / "link").symlink_to(tmp_path)
    own = put(tmp_path / "img.png")
    check_output(tmp_path, True, [own])
    for path in (tmp_path / "masks/a.png", tmp_path / "link/heatmaps/a.png", tmp_path / "earlier/masks/a.png"):
        with pytest.raises(UserError, match="and this one would put it away; give another folder than"):
            check_output(tmp_path, True, [own, path])


def test_two_calls_at_once(tmp_path: Path) -> None:
    with (
        writing_into(tmp_path),
        pytest.raises(UserError, match="Another `meds predict` is writing into"),
        writing_into(tmp_path),
    ):
        pass
    called(tmp_path, "a")


@pytest.fixture
def today(finished: Any) -> Path:
    """Three images and the ground truth of one of them."""
    folder = finished.root / "today"
    for number, name in enumerate(("0.png", "1.png", "masks/0.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / name)
    return folder


def test_the_user_s_masks_stay(finished: Any, today: Path, meds: Callable[..., Finished]) -> None:
    truth, before = (today / "masks/0.png").read_bytes(), tree(today)
    call = ["predict", finished.runs / "tiny", today / "*.png", "--class", "weave", "-o", today]
    done = meds(*call)
    assert (done.code, "would overwrite, such as 0.png; give another folder" in done.said) == (2, True), done.said
    assert tree(today) == before
    assert meds(*call, "--no-heatmaps").code == 0
    assert (today / "masks/0.png").read_bytes() == truth


def test_calls_into_one_folder(
    finished: Any, today: Path, meds: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    (today / "masks/0.png").unlink()
    call = ["predict", finished.runs / "tiny", today, "--class", "weave", "-o", today]
    for _ in range(2):
        done = meds(*call)
        assert (done.code, "0 of 2 images" in done.said or "of 2 images are" in done.said) == (0, True), done.said
    assert f"What the call before wrote there is now in {today / 'earlier'}." in done.said.replace("\n", " ")
    done = meds(*call, "--json", "--no-heatmaps")
    assert [json.loads(line)["heatmap"] for line in done.out.splitlines()] == [None, None]
    assert "is now in" in done.err
    with (today / "earlier/predictions.csv").open() as file:
        assert all(
            (today / "earlier" / row[kind]).is_file() for row in csv.DictReader(file) for kind in ("heatmap", "mask")
        )
    assert meds("predict", finished.runs / "tiny", today, "--class", "weave", "-o", today / "x").code == 0
    assert len((today / "x/predictions.jsonl").read_text().splitlines()) == 2
