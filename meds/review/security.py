"""Who may talk to the review: requests to this address, from its own pages, by a browser that has had the token."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = "127.0.0.1"
METHODS = ("GET", "HEAD", "POST")
OPEN_TO_ALL = "/static/"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Not "no-referrer": with it, browsers send `Origin: null` with forms, and the check below would refuse our own.
    "Referrer-Policy": "same-origin",
}


def new_token() -> str:
    """A random token, 256 bits, for an address."""
    return secrets.token_urlsafe(32)


class Guard:
    """ASGI middleware: answers what it does not like itself, and adds the security headers to every answer.

    The token comes once in the address (`/?token=...`) and is then kept in a cookie, whose name has the port, because
    browsers share the cookies of one host between its ports. The checks of Host (against names that somebody else has
    pointed to this machine) and Origin come first. `refusal` makes the page for a status code and a sentence,
    `welcome` the page that goes on to the review.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str,
        port: int,
        refusal: Callable[[int, str], Response],
        welcome: Callable[[], Response],
    ) -> None:
        self._app, self._token, self._refusal, self._welcome = app, token, refusal, welcome
        self._hosts = {f"{HOST}:{port}", f"localhost:{port}"}
        self._cookie = f"meds-review-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        answer = self._refused(scope) or self._token_in_address(scope)
        await (answer or self._app)(scope, receive, guarded)

    def _refused(self, scope: Scope) -> Response | None:
        headers, method = Headers(scope=scope), scope["method"]
        if headers.get("host") not in self._hosts:
            return self._refusal(421, "The review answers at its own address only.")
        if method not in METHODS:
            return self._refusal(405, "This method is not used here.")
        origin = headers.get("origin")
        if (origin is None and method == "POST") or (
            origin is not None and origin not in {f"http://{host}" for host in self._hosts}
        ):
            return self._refusal(403, "This request does not come from a page of the review.")
        if scope["path"].startswith(OPEN_TO_ALL) or self._knows_token(scope, headers):
            return None
        return self._refusal(403, "Open the address that `meds review` has printed; its token is new each time.")

    def _knows_token(self, scope: Scope, headers: Headers) -> bool:
        given = cookie_parser(headers.get("cookie", "")).get(self._cookie, "")
        return self._is_token(given) or self._token_given(scope)

    def _token_given(self, scope: Scope) -> bool:
        """Whether this is the first request, with the token in the address."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return scope["path"] == "/" and scope["method"] == "GET" and self._is_token(given)

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self._token.encode())

    def _token_in_address(self, scope: Scope) -> Response | None:
        if not self._token_given(scope):
            return None
        # A page and no redirect: a browser that came from somewhere else would not send a strict cookie along with it.
        answer = self._welcome()
        answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
        return answer
