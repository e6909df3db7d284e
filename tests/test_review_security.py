"""`meds review` answers browsers that have the token, from its own pages, with images of the run, and nobody else."""

from __future__ import annotations

import html as markup
import re
from dataclasses import replace
from typing import Any

import pytest
from review_cases import ORIGIN, PORT, TOKEN, Desk, decide

from meds.review.security import HEADERS
from meds.review.server import listen

NASTY = "a/<script>alert(1)</script>\"><img src=x onerror=alert(2)>'&.png"
INLINE = re.compile(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:|https?://")
PAGES = ("/", "/image/1", "/finish", "/progress", "/image/99")


@pytest.fixture
def desk(finished: Any) -> Desk:
    return Desk(finished.runs / "tiny")


def addresses(desk: Desk) -> list[str]:
    digest = desk.digests[0]
    kinds = ("thumbnail", "view", "full", "heatmap", "hottest", "nearest")
    return [*PAGES, f"/nearest/{digest}", *(f"/picture/{digest}/{kind}" for kind in kinds)]


def test_without_the_token_there_is_nothing(desk: Desk) -> None:
    stranger = desk.stranger()
    for address in addresses(desk):
        answer = stranger.get(address)
        assert answer.status_code == 403, address
        assert "tiny" not in answer.text
    for given in ("", "wrong", TOKEN[:-1], TOKEN + "x", "é"):
        assert stranger.get("/", params={"token": given}).status_code == 403
        assert stranger.get("/", headers={"cookie": f"meds-review-{PORT}={given}".encode()}).status_code == 403
    assert stranger.get(f"/image/1?token={TOKEN}").status_code == 403
    posted = stranger.post(
        "/decide", data={"sha256": desk.digests[0], "decision": "defect"}, headers={"origin": ORIGIN}
    )
    assert posted.status_code == 403
    assert not desk.table.exists()
    assert stranger.get("/static/review.css").status_code == 200


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_do_not_get(desk: Desk) -> None:
    client = desk.stranger()
    answer = client.get(f"/?token={TOKEN}")
    assert answer.headers["set-cookie"].lower() == (
        f"meds-review-{PORT}={TOKEN}; httponly; path=/; samesite=strict".lower()
    )
    assert 'content="0;url=/"' in answer.text
    assert TOKEN not in answer.text
    assert client.get("/").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:1", f"0.0.0.0:{PORT}", ""]
)
def test_other_host_names_are_refused(desk: Desk, host: str) -> None:
    client = desk.client()
    assert client.get("/", headers={"host": host}).status_code == 421
    assert client.get("/", headers={"host": f"localhost:{PORT}"}).status_code == 200


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", f"https://127.0.0.1:{PORT}", "http://127.0.0.1"]
)
def test_changes_come_from_its_own_pages_only(desk: Desk, origin: str | None) -> None:
    client = desk.client()
    del client.headers["origin"]
    headers = {} if origin is None else {"origin": origin}
    for address in ("/decide", "/undo"):
        data = {"sha256": desk.digests[0], "decision": "defect"}
        assert client.post(address, data=data, headers=headers).status_code == 403
    if origin is not None:
        assert client.get("/", headers=headers).status_code == 403
    assert not desk.table.exists()


def test_only_post_changes_anything(desk: Desk) -> None:
    client, query = desk.client(), f"?sha256={desk.digests[0]}&decision=defect"
    for address in ("/decide", "/undo"):
        for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"):
            assert client.request(method, address + query).status_code == 405
    assert client.post("/").status_code == 405
    assert not desk.table.exists()


def test_odd_forms_change_nothing(desk: Desk) -> None:
    client, digest = desk.client(), desk.digests[0]
    for data in (
        {},
        {"sha256": digest},
        {"sha256": digest, "decision": "undone"},
        {"sha256": digest, "decision": "DEFECT"},
        {"decision": "defect"},
    ):
        assert client.post("/decide", data=data).status_code in (400, 404), data
    for unknown in ("../../etc/passwd", "0" * 64):
        answer = client.post("/decide", data={"sha256": unknown, "decision": "defect"})
        assert (answer.status_code, "open the review again" in answer.text) == (404, True)
    assert client.post("/decide", content=b"x" * 5000).status_code == 413
    assert client.post("/decide", content=b"\xff\xfe&%zz").status_code == 400
    assert not desk.table.exists()


@pytest.mark.parametrize(
    "address",
    [
        "/picture/../../../../etc/passwd/view",
        "/picture/..%2f..%2f..%2fetc%2fpasswd/view",
        "/picture/%2fetc%2fpasswd/view",
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/templates/base.html",
        "/static//etc/passwd",
        "/static",
        "/static/",
    ],
)
def test_no_path_leads_to_a_file(desk: Desk, address: str) -> None:
    answer = desk.client().get(address)
    assert answer.status_code in (307, 404)
    assert "root:" not in answer.text
    assert "import" not in answer.text


def test_numbers_of_any_length_are_answered(desk: Desk) -> None:
    client, long = desk.client(), "9" * 5000
    assert client.get(f"/image/{long}").status_code == 404
    assert client.get("/image/x").status_code == 404
    assert client.get(f"/?page={long}").status_code == 200
    assert client.get(f"/image/1?judged={long}").status_code == 200


def test_only_training_images_are_shown(desk: Desk) -> None:
    client = desk.client()
    test_only = {sample.digest for sample in desk.run.data.test} - set(desk.digests)
    assert test_only
    for digest in (*test_only, desk.digests[0].upper(), desk.digests[0][:32]):
        assert client.get(f"/picture/{digest}/view").status_code == 404
    assert client.get(f"/picture/{desk.digests[0]}/other").status_code == 404


def test_scripts_in_names_stay_text(desk: Desk) -> None:
    data = desk.run.data
    record = replace(data.train[0].record, path=NASTY)
    nasty = (replace(data.train[0], record=record), *data.train[1:])
    desk.run.__dict__["data"] = replace(data, train=nasty)
    desk.review = desk.review.__class__(desk.run, desk.table, '<b onclick="x">ann</b>')
    client = desk.client()
    item = next(item for item in desk.review.items if item.name == NASTY)
    decide(client, item.digest, "defect")
    for address in ("/", f"/image/{item.rank}", "/finish", f"/nearest/{item.digest}"):
        html = client.get(address).text
        for part in ("<script>alert", "onerror=alert(2)>", "<b onclick"):
            assert part not in html, address
    assert (
        str(markup.escape(NASTY, quote=False)).replace("'", "&#39;").replace('"', "&#34;")
        in client.get(f"/image/{item.rank}").text
    )
    assert [row for row in desk.review.journal.rows() if row.path == NASTY]


def test_every_answer_carries_the_headers_and_no_page_has_inline_scripts_or_styles(desk: Desk) -> None:
    client = desk.client()
    decide(client, desk.digests[0], "defect")
    for address in (*addresses(desk), "/static/review.js", "/nothing"):
        answer = client.get(address)
        for name, value in HEADERS.items():
            assert answer.headers[name] == value, address
        assert "cache-control" in answer.headers
        if "html" in answer.headers["content-type"]:
            assert not re.search(
                r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:|https?://", answer.text
            ), address
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'")


def test_it_listens_to_this_machine_only() -> None:
    with listen(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
