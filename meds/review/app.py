"""The web application: which address shows or changes what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast, get_args
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from meds.core.decisions import Verdict
from meds.core.errors import DataError, MedsError
from meds.core.finished_run import FinishedRun
from meds.review.nearest import Missing, NearestNormal
from meds.review.pages import Pages
from meds.review.pictures import ReviewPictures
from meds.review.ranking import SHOWN, Filter, Item
from meds.review.security import Guard
from meds.review.session import Review

STATIC = Path(__file__).parent / "static"
LONGEST_FORM = 4096
VERDICTS = get_args(Verdict)[:-1]
NOTHING_TO_UNDO = "There is no decision of yours to take back."


class Site:
    """The endpoints over one review."""

    def __init__(self, run: FinishedRun, review: Review) -> None:
        self._review = review
        self._pictures = ReviewPictures(run)
        self._nearest = NearestNormal(run, review)
        self.pages = Pages(review, self._pictures)

    def grid(self, request: Request) -> Response:
        """The thumbnails."""
        page = _number(request.query_params.get("page", "1")) or 1
        wanted = self._filter(request.query_params.get)
        return HTMLResponse(self.pages.grid(wanted, page))

    def image(self, request: Request) -> Response:
        """One image by its rank."""
        rank = _number(request.path_params["rank"])
        if not 1 <= rank <= len(self._review.items):
            raise HTTPException(404, f"The run has {len(self._review.items)} training images; there is no rank {rank}.")
        item = self._review.items[rank - 1]
        note = self._note(request)
        wanted = self._filter(request.query_params.get)
        return HTMLResponse(self.pages.image(item, wanted, self._nearest.hottest(item), self._nearest.grid, note))

    def finish(self, request: Request) -> Response:
        """What comes after the review."""
        return HTMLResponse(self.pages.finish(self._note(request)))

    def progress(self, _: Request) -> Response:
        """How far all reviewers are, as a part of a page."""
        return HTMLResponse(self.pages.progress())

    def nearest(self, request: Request) -> Response:
        """The nearest normal patch, as a part of a page."""
        item = self._item(request)
        return HTMLResponse(self.pages.nearest(item, self._nearest.of(item)))

    def picture(self, request: Request) -> Response:
        """A picture of an image of the run, by sha256 and kind."""
        item, kind = self._item(request), request.path_params["kind"]
        pictures = self._pictures
        makers: dict[str, tuple[Callable[[Item], bytes], str]] = {
            "thumbnail": (pictures.thumbnail, "image/jpeg"),
            "view": (pictures.view, "image/jpeg"),
            "full": (pictures.full, "image/png"),
            "heatmap": (pictures.heatmap, "image/png"),
            "hottest": (lambda item: pictures.crop(item, self._nearest.hottest(item)), "image/jpeg"),
            "nearest": (self._nearest_crop, "image/jpeg"),
        }
        if kind not in makers:
            raise HTTPException(404, "There is no such picture.")
        make, media = makers[kind]
        try:
            data = make(item)
        except MedsError as error:
            raise HTTPException(404, str(error)) from None
        # The first two are made from the content that the address names; the others depend on the run, too.
        lasting = kind in ("thumbnail", "view")
        return Response(data, 200, {"Cache-Control": "private, max-age=3600" if lasting else "no-cache"}, media)

    async def decide(self, request: Request) -> Response:
        """Write a decision, then go to the next image."""
        form = await _form(request)
        digest, verdict, wanted = form("sha256"), form("decision"), self._filter(form)
        if verdict not in VERDICTS:
            raise HTTPException(400, f"A decision is {', '.join(VERDICTS)}.")
        self._known(digest)
        first = await run_in_threadpool(self._review.decide, digest, cast(Verdict, verdict))
        item = self._shown(form) or first
        following = await run_in_threadpool(self._review.next_after, item, wanted)
        place = "/finish" if following is None else f"/image/{following.rank}{wanted.query}"
        return _see_other(_with(place, "judged", item.rank))

    async def undo(self, request: Request) -> Response:
        """Take back a decision of this person, then show the image."""
        form = await _form(request)
        wanted = self._filter(form)
        item = await run_in_threadpool(self._review.undo, form("sha256") or None)
        here = item is None or item.digest == form("sha256")
        shown = (self._shown(form) if here else None) or item or self._review.by_digest.get(form("sha256"))
        place = "/finish" if shown is None else f"/image/{shown.rank}{wanted.query}"
        return _see_other(_with(place, "undone", int(item is not None)))

    def _shown(self, form: Callable[[str], str]) -> Item | None:
        """The item that a form was sent from, which of several copies of an image need not be the first."""
        place = _number(form("rank")) - 1
        items = self._review.items
        found = items[place] if 0 <= place < len(items) else None
        return found if found and found.digest == form("sha256") else None

    def refusal(self, status: int, sentence: str) -> Response:
        """A page for a request that cannot be answered."""
        return HTMLResponse(self.pages.refusal(status, sentence), status)

    def _note(self, request: Request) -> str:
        """What the request before this one has done, in a sentence."""
        given = request.query_params
        if "undone" in given:
            return "Your decision was taken back." if given["undone"] == "1" else NOTHING_TO_UNDO
        rank = _number(given.get("judged", ""))
        if not 1 <= rank <= len(self._review.items):
            return ""
        decision = self._review.standing().get(self._review.items[rank - 1].digest)
        return "" if decision is None else f"Image {rank} is judged: {decision.decision}."

    def _nearest_crop(self, item: Item) -> bytes:
        found = self._nearest.of(item)
        if isinstance(found, Missing):
            raise DataError(found.reason)
        return self._pictures.crop(found.item, found.patch)

    def _item(self, request: Request) -> Item:
        return self._known(request.path_params["digest"])

    def _known(self, digest: str) -> Item:
        item = self._review.by_digest.get(digest)
        if item is None:
            raise HTTPException(404, "This image is not among the training images of the run; open the review again.")
        return item

    def _filter(self, given: Callable[[str], str | None]) -> Filter:
        """The filter that a query or a form asks for; what is not known means all images."""
        name, shown = given("class") or "", given("shown") or "all"
        return Filter(name if name in self._review.class_names else "", shown if shown in SHOWN else "all")


def create_app(run: FinishedRun, review: Review, token: str, port: int) -> Starlette:
    """The application of one review at 127.0.0.1:`port`, for browsers that have the token."""
    site = Site(run, review)

    def http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return site.refusal(error.status_code, error.detail)

    def own_error(_: Request, error: Exception) -> Response:
        return site.refusal(500, str(error))

    def system_error(_: Request, error: Exception) -> Response:
        return site.refusal(500, f"Nothing was written: {error}")

    return Starlette(
        routes=[
            Route("/", site.grid),
            Route("/image/{rank}", site.image),
            Route("/picture/{digest}/{kind}", site.picture),
            Route("/nearest/{digest}", site.nearest),
            Route("/progress", site.progress),
            Route("/finish", site.finish),
            Route("/decide", site.decide, methods=["POST"]),
            Route("/undo", site.undo, methods=["POST"]),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[
            Middleware(
                Guard,
                token=token,
                port=port,
                refusal=site.refusal,
                welcome=lambda: HTMLResponse(site.pages.welcome()),
            )
        ],
        exception_handlers={HTTPException: http_error, MedsError: own_error, OSError: system_error},
    )


async def _form(request: Request) -> Callable[[str], str]:
    """The fields of a posted form; an unknown one is empty."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_FORM:
            raise HTTPException(413, "The form is too long.")
    fields = parse_qs(body.decode("utf-8", "replace"))
    return lambda name: fields.get(name, [""])[0]


def _number(text: str) -> int:
    """A number of at most nine digits; 0 for any other text."""
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _with(address: str, name: str, value: int) -> str:
    return f"{address}{'&' if '?' in address else '?'}{name}={value}"


def _see_other(address: str) -> Response:
    return RedirectResponse(address, 303)
