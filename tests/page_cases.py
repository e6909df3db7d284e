"""Reads the pages of `meds rank` and `meds report` back: their texts, tables, pictures and figures."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

HARMFUL = ("<script>alert(1)</script>.png", '"><img src=x onerror=alert(2)>.png')
VOID = {"meta", "img", "br", "link", "input", "hr"}


def rename(table: Path, paths: Mapping[str, str]) -> None:
    """Give images other paths in a table of a run."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows({**row, "path": paths.get(row["path"], row["path"])} for row in rows)


class Page(HTMLParser):
    """What stands in a page. `open_at_end` are tags that were never closed; an empty list for a sound page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.alternatives: list[str] = []
        self.rows: list[list[str]] = []
        self.figures: list[dict[str, str]] = []
        self.open_at_end: list[str] = []
        self._texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)
        if tag not in VOID:
            self.open_at_end.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.sources += [value for name, value in values.items() if name in ("src", "srcset", "data", "poster")]
        self.links += [value for name, value in values.items() if name in ("href", "xlink:href", "action")]
        self.ids += [value for name, value in values.items() if name == "id"]
        if tag == "img":
            self.alternatives.append(values["alt"])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "svg":
            self.figures.append({"role": values.get("role", ""), "labels": values.get("aria-labelledby", "")})

    def handle_endtag(self, tag: str) -> None:
        assert self.open_at_end, f"</{tag}> closes nothing"
        assert self.open_at_end[-1] == tag, f"</{tag}> closes <{self.open_at_end[-1]}>"
        self.open_at_end.pop()

    def handle_data(self, data: str) -> None:
        if "style" in self.open_at_end:
            return
        self._texts.append(data)
        if {"td", "th"} & set(self.open_at_end):
            self.rows[-1][-1] += data
        if "svg" in self.open_at_end and self.open_at_end[-1] in ("title", "desc"):
            kept = self.figures[-1]
            kept[self.open_at_end[-1]] = kept.get(self.open_at_end[-1], "") + data

    @property
    def text(self) -> str:
        """All text that is shown, with every run of white space as one blank."""
        return " ".join("".join(self._texts).replace("\xa0", " ").split())

    def row(self, *beginning: str) -> list[str]:
        """The cells of the first table row that begins so."""
        cells = [[" ".join(cell.replace("\xa0", " ").split()) for cell in row] for row in self.rows]
        return next(row for row in cells if tuple(row[: len(beginning)]) == beginning)

    def figure(self, *words: str) -> dict[str, str]:
        """The only figure whose title has all these words."""
        (found,) = [figure for figure in self.figures if all(word in figure["title"] for word in words)]
        return found

    def assert_sound(self) -> None:
        """Tags match, ids differ, nothing is fetched, everything that is no text has words, nothing is undefined."""
        assert self.open_at_end == []
        assert len(set(self.ids)) == len(self.ids)
        assert all(source.startswith("data:image/jpeg;base64,") for source in self.sources)
        assert all(link.startswith(("#", "file:///")) for link in self.links)
        anchors = {link[1:] for link in self.links if link.startswith("#")}
        anchors |= {name for figure in self.figures for name in figure["labels"].split()}
        anchors |= set(re.findall(r"url\(#([^)]+)\)", self.source))
        assert anchors <= set(self.ids)
        assert "http" not in re.sub(r"base64,[^\"]*", "", self.source)
        assert not {"script", "link", "iframe", "object", "embed"} & set(self.tags)
        assert all(figure["role"] == "img" and figure["title"] and figure["desc"] for figure in self.figures)
        assert all(self.alternatives)
        assert not re.search(r"\b(None|nan|Undefined)\b", self.text)
