"""Which files `meds predict` takes for the images that are meant: files, folders and globs."""

from __future__ import annotations

from pathlib import Path

import pytest

from meds.core.errors import UserError
from meds.core.image_files import DRAWN
from meds.core.new_images import find_images


@pytest.fixture
def days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images of three days, one of them in a folder of its own; one stands above them."""
    for name in (
        "2024-05-01/a.png",
        "2024-05-01/late/b.png",
        "2024-05-02/c.png",
        "2024-06-01/d.png",
        "2024-05-02/n.txt",
    ):
        (tmp_path / "dates" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "dates" / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "dates"


def found(*given: str) -> list[str]:
    return [path.as_posix().removeprefix("dates/") for path in find_images(given)]


def test_folders_that_a_glob_matches_are_walked(days: Path) -> None:
    may = ["2024-05-01/a.png", "2024-05-01/late/b.png", "2024-05-02/c.png"]
    assert found("dates/2024-05-0*") == may
    assert find_images([f"{days}/2024-05-0*"]) == [days / name for name in may]
    assert found("dates/**") == [*may, "2024-06-01/d.png"]
    assert found("dates/2024-05-0[2]", "dates/2024-05-0*") == [may[2], *may[:2]]
    assert found("dates/2024-05-0*/*.png") == [may[0], may[2]]
    # A file that a glob matches is meant, whatever it is called.
    assert found("dates/2024-05-02/*") == ["2024-05-02/c.png", "2024-05-02/n.txt"]


def test_what_predict_drew_is_left_out_unless_it_is_named(days: Path) -> None:
    drawn = days / "predictions" / "masks"
    for path in (drawn / "a.png", drawn / DRAWN, days / ".trash/x.png", days / "masks/own.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    kept = [*found("dates/2024*"), "masks/own.png"]
    for given in ("dates", "dates/*", "dates/**", "dates/**/*.png"):
        assert sorted(found(given)) == sorted(kept)
    for given in ("dates/predictions/masks", "dates/predictions/masks/*.png", "dates/predictions/masks/a.png"):
        assert found(given) == ["predictions/masks/a.png"]
    assert found("dates/.tr*") == [".trash/x.png"]
    with pytest.raises(UserError, match="No images were found in dates/predictions"):
        find_images(["dates/predictions"])


def test_a_sentence_about_a_name_takes_one_line(days: Path) -> None:
    (days / "a\nb").mkdir()
    with pytest.raises(UserError, match=r"^No images were found in dates/a\\nb\.$"):
        find_images(["dates/a\nb"])
