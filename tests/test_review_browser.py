"""`meds review` in a real Chromium: twenty images by keyboard, a killed server, no mouse, both schemes."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from review_cases import Desk, Server

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra test)")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed on this machine"),
]
VERDICTS = {"d": "defect", "n": "normal", "u": "unsure"}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sandbox = [] if os.geteuid() else ["--no-sandbox"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("console", lambda said: page.complaints.append(said.text) if said.type == "error" else None)
    yield page
    context.close()


@pytest.fixture
def killable(finished: Any) -> Desk:
    """A run that no server of other tests looks at."""
    return Desk(finished.runs / "tiny")


@pytest.fixture(scope="module")
def server(_finished_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that leave it alive."""
    run = tmp_path_factory.mktemp("served") / "tiny"
    shutil.copytree(_finished_once / "runs" / "tiny", run)
    server = Server(run)
    yield server
    server.kill()


@pytest.fixture
def desk(server: Server) -> Desk:
    """The run that is served, with nothing decided yet."""
    (server.run / "decisions.csv").unlink(missing_ok=True)
    return Desk(server.run)


def enter(page: Any, server: Server) -> None:
    """Open the address with the token, and wait for the page that it leads to."""
    page.goto(server.address)
    page.wait_for_url(server.origin + "/")


def press(page: Any, key: str) -> None:
    """Press a key that leads to another page, and wait for it."""
    before = page.url
    page.keyboard.press(key)
    page.wait_for_url(lambda address: address != before)


def rank(page: Any) -> int:
    return int(re.search(r"/image/(\d+)", page.url)[1])


def test_twenty_images_a_reload_and_a_server_killed_in_the_middle(killable: Desk, page: Any) -> None:
    desk = killable
    server, keys = Server(desk.path), "dndnudddnndnduddnndd"
    try:
        enter(page, server)
        press(page, "c")
        for place, key in enumerate(keys[:8], start=1):
            assert rank(page) == place
            press(page, key)
        page.reload()
        assert rank(page) == 9
        assert "8 of 20 judged" in page.inner_text("#progress")
        for key in keys[8:12]:
            press(page, key)
        assert page.complaints == []
        page.keyboard.press(keys[12])
    finally:
        server.kill()
    expected = {digest: VERDICTS[key] for digest, key in zip(desk.digests, keys, strict=True)}
    kept = desk.verdicts()
    # The last key was still on its way: its decision is there or it is not.
    assert kept.items() <= expected.items()
    assert len(kept) in (12, 13)
    server = Server(desk.path)
    try:
        enter(page, server)
        # A browser complains of a server that has gone.
        page.complaints.clear()
        assert f"{len(kept)} of 20 judged" in page.inner_text("#progress")
        press(page, "c")
        assert rank(page) == len(kept) + 1
        for key in keys[len(kept) :]:
            press(page, key)
        page.wait_for_url("**/finish**")
        assert "All images are judged" in page.inner_text("main")
        assert page.inner_text("#command").startswith("meds run ")
    finally:
        server.kill()
    assert desk.verdicts() == expected
    assert page.complaints == []


def test_keys_for_going_about_and_taking_back(desk: Desk, server: Server, page: Any) -> None:
    enter(page, server)
    page.keyboard.press("ArrowRight")
    press(page, "Enter")
    assert rank(page) == 1
    press(page, "ArrowRight")
    press(page, "ArrowRight")
    press(page, "ArrowLeft")
    assert rank(page) == 2
    press(page, "d")
    assert "Image 2 is judged: defect." in page.inner_text("main")
    press(page, "Backspace")
    assert rank(page) == 2
    assert "Your decision was taken back." in page.inner_text("main")
    press(page, "n")
    press(page, "z")
    assert desk.verdicts() == {}
    press(page, "g")
    assert page.url.startswith(server.origin + "/")
    assert page.complaints == []


def test_help_and_single_keys_can_be_switched_off(desk: Desk, server: Server, page: Any) -> None:
    enter(page, server)
    press(page, "c")
    page.keyboard.press("?")
    assert page.is_visible("#help")
    page.keyboard.press("d")
    page.uncheck("#keys-on")
    page.keyboard.press("Escape")
    assert not page.is_visible("#help")
    page.keyboard.press("d")
    page.reload()
    page.keyboard.press("n")
    page.wait_for_timeout(300)
    assert rank(page) == 1
    assert not desk.table.exists()


def test_the_heatmap_s_controls_are_remembered(desk: Desk, server: Server, page: Any) -> None:
    enter(page, server)
    press(page, "c")
    assert page.is_visible("#heatmap")
    page.focus("#heatmap-opacity")
    page.keyboard.press("ArrowRight")
    assert rank(page) == 1
    assert page.eval_on_selector("#heatmap", "picture => getComputedStyle(picture).opacity") == "0.55"
    page.keyboard.press("h")
    assert not page.is_visible("#heatmap")
    press(page, "d")
    assert not page.is_visible("#heatmap")
    page.keyboard.press("h")
    assert page.eval_on_selector("#heatmap", "picture => getComputedStyle(picture).opacity") == "0.55"
    page.wait_for_selector("#nearest .pair")
    assert page.complaints == []


def test_what_others_decide_shows_up_by_itself(desk: Desk, server: Server, page: Any) -> None:
    enter(page, server)
    Desk(desk.path, "bob").review.decide(desk.digests[0], "defect")
    page.wait_for_selector("#progress >> text=1 of 20 judged", timeout=10000)


@pytest.mark.parametrize("width", [1280, 820, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_can_be_used_without_a_mouse_and_is_named(
    desk: Desk, server: Server, chromium: Any, width: int, scheme: str
) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    enter(page, server)
    for address in ("/", "/image/1", "/finish"):
        page.goto(server.origin + address)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), address
        assert page.evaluate("[...document.images].every(picture => picture.alt)")
        names = page.evaluate(
            "[...document.querySelectorAll('a[href], button, input:not([type=hidden]), select')].filter("
            "e => e.checkVisibility()).map(e => e.textContent.trim() || e.getAttribute('aria-label') || "
            "e.labels?.[0]?.textContent.trim() || e.querySelector('img')?.alt || '')"
        )
        assert all(names), (address, names)
        small = page.evaluate(
            "[...document.querySelectorAll('main button, header a, header button, .plain')].filter("
            "e => e.checkVisibility() && e.getBoundingClientRect().height < 44).map(e => e.outerHTML)"
        )
        assert not small, address
    page.goto(server.origin + "/image/1")
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.dataset.key"))
        assert page.evaluate(
            "document.activeElement === document.body || "
            "getComputedStyle(document.activeElement).outlineStyle !== 'none'"
        )
    assert {"d", "n", "u", "z Backspace", "ArrowRight", "h"} <= set(reached)
    context.close()


def test_a_page_of_another_site_can_neither_see_nor_change_anything(
    desk: Desk, server: Server, page: Any, tmp_path: Path
) -> None:
    enter(page, server)
    digest = desk.digests[0]
    foreign = tmp_path / "foreign.html"
    foreign.write_text(
        f'<img src="{server.origin}/picture/{digest}/view"><form method="post" action="{server.origin}/decide">'
        f'<input name="sha256" value="{digest}"><input name="decision" value="defect"></form>'
    )
    page.goto(foreign.as_uri())
    assert page.evaluate("document.images[0].naturalWidth") == 0
    page.evaluate("document.forms[0].submit()")
    page.wait_for_url("**/decide")
    assert "This request does not come from a page of the review." in page.inner_text("main")
    assert not desk.table.exists()
