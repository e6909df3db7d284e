"""Fills the page templates."""

from __future__ import annotations

import itertools
import re
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from meds.core.decisions import Decision
from meds.core.errors import DataError
from meds.core.run_again import named, run_again
from meds.review.nearest import Missing, Neighbour, Patch
from meds.review.pictures import ReviewPictures
from meds.review.ranking import SHOWN, Filter, Item, after, before, chosen
from meds.review.session import Review, ReviewProgress

PAGE = 48


class Pages:
    """HTML of every page; everything that comes from the run or from people is escaped."""

    def __init__(self, review: Review, pictures: ReviewPictures) -> None:
        self._review, self._pictures = review, pictures
        # Jinja's own choice of what to escape goes by file names; here everything is HTML.
        self._templates = Environment(
            loader=PackageLoader("meds.review"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._templates.filters["code"] = _code
        self._templates.filters["number"] = _number
        self._templates.filters["when"] = _when
        self._templates.filters["filename"] = lambda path: path.replace("\\", "/").rpartition("/")[2]

    def grid(self, wanted: Filter, page: int) -> str:
        """A page of thumbnails, most suspicious first."""
        standing = self._review.standing()
        items = chosen(self._review.items, wanted, standing)
        pages = max(1, -(-len(items) // PAGE))
        page = min(max(page, 1), pages)
        return self._render(
            "grid.html",
            wanted,
            items=items[(page - 1) * PAGE : page * PAGE],
            count=len(items),
            page=page,
            pages=pages,
            standing=standing,
            choices=[(shown, len(chosen(self._review.items, wanted.with_shown(shown), standing))) for shown in SHOWN],
            address=lambda number: wanted.query + ("&" if wanted.query else "?") + f"page={number}",
        )

    def image(self, item: Item, wanted: Filter, hottest: Patch, grid: Patch, note: str = "") -> str:
        """One image with everything that helps to judge it."""
        standing = self._review.standing()
        items = chosen(self._review.items, wanted, standing)
        following = after(items, item.rank)
        try:
            size, trouble = self._pictures.size(item), ""
        except DataError as error:
            size, trouble = None, str(error)
        return self._render(
            "image.html",
            wanted,
            item=item,
            size=size,
            trouble=trouble,
            decision=standing.get(item.digest),
            previous=before(items, item.rank),
            following=following,
            coming=self._review.next_after(item, wanted),
            total=len(self._review.items),
            median=self._medians[item.class_name],
            place=_place(hottest, grid),
            note=note,
        )

    def finish(self, note: str = "") -> str:
        """What has been decided, and the command that uses it."""
        return self._render("finish.html", Filter(), command=next_command(self._review), note=note)

    def progress(self) -> str:
        """The progress alone, for a page that is open."""
        return self._templates.get_template("_progress.html").render(progress=self._review.progress())

    def nearest(self, item: Item, found: Neighbour | Missing) -> str:
        """The two crops, or why there are none."""
        missing = found.reason if isinstance(found, Missing) else ""
        return self._templates.get_template("_nearest.html").render(item=item, found=found, missing=missing)

    def refusal(self, status: int, sentence: str) -> str:
        """A page that says why there is none; it shows nothing of the run."""
        return self._templates.get_template("refusal.html").render(status=status, sentence=sentence)

    def welcome(self) -> str:
        """The page that a token leads to."""
        return self._templates.get_template("welcome.html").render()

    @cached_property
    def _medians(self) -> dict[str, float]:
        return {
            name: float(np.median([item.score for item in self._review.items if item.class_name == name]))
            for name in self._review.class_names
        }

    def _render(self, template: str, wanted: Filter, **values: Any) -> str:
        review = self._review
        progress: ReviewProgress = review.progress()
        return self._templates.get_template(template).render(
            run=review.run.path.resolve().name,
            who=review.who,
            wanted=wanted,
            progress=progress,
            class_names=review.class_names,
            first=review.first_undecided(wanted.class_name),
            **values,
        )


def next_command(review: Review) -> str:
    """The command that trains again with the decisions, in a run of its own beside the reviewed one."""
    run, table = named(review.run.path), review.journal.path
    name = _next_name(review.run.spec.name, run, table)
    return run_again(run, review.run.spec.name, name, ["--decisions", str(table)])


def _next_name(name: str, run: Path, table: Path) -> str:
    """`NAME-reviewed`, or with a number where that is this run or one that was not made with this table."""
    base = re.sub(r"-reviewed(-\d+)?$", "", name) + "-reviewed"
    for candidate in itertools.chain([base], (f"{base}-{number}" for number in itertools.count(2))):
        folder = run.parent / candidate
        if not folder.exists() or (folder.resolve() != run.resolve() and _made_with(folder, table)):
            return candidate
    raise AssertionError("numbers have no end")


def _made_with(folder: Path, table: Path) -> bool:
    try:
        spec = yaml.safe_load((folder / "spec.yaml").read_text(encoding="utf-8"))
        return Path(spec["decisions"]["file"]).resolve() == table.resolve()
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return False


def _place(patch: Patch, grid: Patch) -> str:
    """Where on the image a patch lies, in words."""
    row, column = (min(2, 3 * at // of) for at, of in zip(patch, grid, strict=True))
    vertical, horizontal = ("top", "", "bottom")[row], ("left", "", "right")[column]
    return " ".join(word for word in (vertical, horizontal) if word) or "centre"


def _code(sentence: str) -> Markup:
    """A sentence in which words between backticks are code."""
    parts = [
        Markup("<code>{}</code>" if place % 2 else "{}").format(part) for place, part in enumerate(sentence.split("`"))
    ]
    return Markup().join(parts)


def _number(value: float) -> str:
    """A score with three significant digits."""
    return f"{value:#.3g}".removesuffix(".")


def _when(decision: Decision) -> str:
    """When a decision was made, in the local time zone; empty if the table does not say."""
    try:
        return datetime.fromisoformat(decision.when).astimezone().strftime("%d %b %Y, %H:%M")
    except ValueError:
        return ""
