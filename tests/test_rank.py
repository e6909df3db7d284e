"""`meds rank`: the contact sheet shows the ranking, needs nothing but itself, and file names do no harm."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

from conftest import Finished

from meds.core.finished_run import FinishedRun
from meds.reports.ranking import read_ranking, write_sheet


class Images(HTMLParser):
    """The addresses of all pictures, and the tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name == "src"]


def test_the_sheet_shows_the_first_images_and_lists_the_others(finished: Any, meds: Callable[..., Finished]) -> None:
    done = meds("rank", finished.runs / "tiny", "--top", "5")
    assert done.code == 0, done.err
    text = finished.file("ranking.html").read_text()
    page = Images(text)
    assert len(page.sources) == 10
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert not re.search(r"(src|href)=\"(https?:)?//", text)
    places = [text.index(row["path"]) for row in finished.rows("ranking.csv")]
    assert places == sorted(places)
    assert "The other 15" in text
    assert "inspection depth" in text
    assert "too few images to tell" in text


def test_json(finished: Any, meds: Callable[..., Finished]) -> None:
    found = json.loads(meds("rank", finished.runs / "tiny", "--top", "3", "--json").out)
    assert [row["path"] for row in found["images"]] == [row["path"] for row in finished.rows("ranking.csv")[:3]]
    assert found["expected_defects"] is None


def test_names_are_escaped(finished: Any) -> None:
    run = FinishedRun(finished.runs / "tiny")
    ranking = read_ranking(run)
    ranking.rows[-1]["path"] = "<script>alert(1)</script>.png"
    write_sheet(run, ranking, finished.root / "page.html", 2)
    text = (finished.root / "page.html").read_text()
    assert "&lt;script&gt;alert(1)" in text
    assert "script" not in Images(text).tags
