"""`meds review`: pages, decisions, taking back, several people at once, and what is left to do."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished
from review_cases import Desk, Server, decide

from meds import review
from meds.core.decision_table import read_decisions
from meds.core.finished_run import FinishedRun
from meds.review import pages, session
from meds.review.ranking import Filter


@pytest.fixture
def desk(finished: Any) -> Desk:
    return Desk(finished.runs / "tiny")


def ranks(html: str) -> list[int]:
    return [int(rank) for rank in re.findall(r'class="tile[^"]*" href="/image/(\d+)', html)]


def test_the_order_is_the_ranking_s(desk: Desk, finished: Any) -> None:
    rows = finished.rows("ranking.csv")
    assert [item.name for item in desk.review.items] == [row["path"] for row in rows]
    assert [str(int(item.selected)) for item in desk.review.items] == [row["selected"] for row in rows]
    assert ranks(desk.client().get("/").text) == list(range(1, 21))


def test_filters_and_pages(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    client, items = desk.client(), desk.review.items
    decide(client, items[2].digest, "defect")
    decide(client, items[4].digest, "unsure")
    weave = [item.rank for item in items if item.class_name == "weave"]
    assert ranks(client.get("/?class=weave").text) == weave
    assert ranks(client.get("/?shown=defect").text) == [3]
    assert ranks(client.get("/?shown=undecided").text) == [rank for rank in range(1, 21) if rank not in (3, 5)]
    assert "There is no such image." in client.get("/?shown=normal").text
    assert ranks(client.get("/?class=unknown&shown=odd&page=x").text) == list(range(1, 21))
    monkeypatch.setattr(pages, "PAGE", 6)
    assert ranks(client.get("/?page=2").text) == [7, 8, 9, 10, 11, 12]
    last = client.get(f"/?class=weave&page={-(-len(weave) // 6)}").text
    assert ranks(last) == weave[(len(weave) - 1) // 6 * 6 :]
    assert "class=weave&amp;page=1" in last
    assert ranks(client.get("/?page=99").text) == [19, 20]


def test_an_image_s_page_says_what_is_known(desk: Desk) -> None:
    client, item = desk.client(), desk.review.items[6]
    html = client.get("/image/7").text
    for text in ("Image 7 <span>of 20", item.class_name, f"{item.score:#.3g}", item.name, "Not judged yet"):
        assert text in html
    assert ("left out by the run" in html) is not item.selected
    decide(client, item.digest, "normal")
    html = client.get("/image/7").text
    assert re.search(r'<span class="badge normal">normal</span> by ann, \d\d \w+ \d{4}', html)
    assert html.count('aria-pressed="true"') == 1
    for address in ("/image/0", "/image/21", "/image/-1", "/image/x", f"/nearest/{'0' * 64}", "/nothing"):
        assert client.get(address).status_code == 404


def test_decisions_lead_on_to_what_nobody_has_judged(desk: Desk) -> None:
    client, digests = desk.client(), desk.digests
    decide(client, digests[1], "defect")
    assert decide(client, digests[0], "normal") == "/image/3?judged=1"
    assert "Image 1 is judged: normal." in client.get("/image/3?judged=1").text
    for digest in digests[2:19]:
        decide(client, digest, "unsure")
    assert client.get("/image/20?judged=19").status_code == 200
    client.post("/undo", data={"sha256": digests[4]})
    assert decide(client, digests[19], "defect") == "/image/5?judged=20"
    assert decide(client, digests[4], "defect") == "/finish?judged=5"
    assert "All images are judged" in client.get("/finish").text
    assert len(desk.verdicts()) == 20


def test_a_list_of_judged_images_is_gone_through_in_its_order(desk: Desk) -> None:
    client, digests = desk.client(), desk.digests
    for place in (0, 3, 5):
        decide(client, digests[place], "unsure")
    assert decide(client, digests[0], "normal", shown="unsure") == "/image/4?shown=unsure&judged=1"
    html = client.get("/image/4?shown=unsure").text
    assert 'href="/image/6?shown=unsure"' in html
    assert 'data-key="ArrowLeft"' not in html
    assert decide(client, digests[5], "normal", shown="unsure") == "/finish?judged=6"


def test_copies_of_an_image_are_walked_through_in_their_order(desk: Desk) -> None:
    first, _, third = desk.review.items[:3]
    copy = replace(first, rank=2)
    desk.review.items = [first, copy, third, *desk.review.items[3:]]
    client = desk.client()
    sent = {"sha256": first.digest, "decision": "defect", "rank": "2"}
    assert client.post("/decide", data=sent).headers["location"] == "/image/3?judged=2"
    assert client.post("/decide", data={**sent, "shown": "defect"}).headers["location"] == "/finish?judged=2"
    assert client.post("/undo", data=sent).headers["location"] == "/image/2?undone=1"
    assert client.post("/decide", data={**sent, "rank": "3"}).headers["location"] == "/image/3?judged=1"


def test_a_run_that_is_renamed_during_a_review_is_told(desk: Desk) -> None:
    client = desk.client()
    sent = {"sha256": desk.digests[0], "decision": "defect"}
    assert client.post("/decide", data=sent).status_code == 303
    elsewhere = desk.path.with_name("elsewhere")
    desk.path.rename(elsewhere)
    answer = client.post("/decide", data={**sent, "sha256": desk.digests[1]})
    assert (answer.status_code, "the folder is not there any more" in answer.text) == (500, True)
    assert not desk.path.exists()
    elsewhere.rename(desk.path)
    desk.table.unlink()
    answer = client.post("/decide", data={**sent, "sha256": desk.digests[1]})
    assert "the decisions are not there any more; bring the table back" in answer.text
    assert not desk.table.exists()


def test_the_class_filter_holds_while_judging(desk: Desk) -> None:
    client = desk.client()
    first, second = [item for item in desk.review.items if item.class_name == "discs"][:2]
    place = decide(client, first.digest, "normal", **{"class": "discs", "shown": "all"})
    assert place == f"/image/{second.rank}?class=discs&judged={first.rank}"


def test_a_decision_is_on_the_disk_before_the_answer(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    client, digest = desk.client(), desk.digests[0]
    seen: list[str] = []
    real = session.append_decision

    def watched(path: Path, decision: Any) -> None:
        real(path, decision)
        seen.append(path.read_text())

    monkeypatch.setattr(session, "append_decision", watched)
    decide(client, digest, "defect")
    assert f"{digest},defect,ann," in seen[0]

    def full(path: Path, decision: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session, "append_decision", full)
    answer = client.post("/decide", data={"sha256": desk.digests[1], "decision": "normal"})
    assert (answer.status_code, "Nothing was written" in answer.text) == (500, True)
    assert desk.verdicts() == {digest: "defect"}


def test_the_same_decision_twice_is_one_row(desk: Desk) -> None:
    client, digest = desk.client(), desk.digests[0]
    for verdict in ("defect", "defect", "normal"):
        decide(client, digest, verdict)
    assert [row.decision for row in read_decisions(desk.table)] == ["defect", "normal"]


def test_undo_takes_back_one_after_the_other(desk: Desk) -> None:
    client, digests = desk.client(), desk.digests
    for digest, verdict in zip(digests[:3], ("defect", "normal", "unsure"), strict=True):
        decide(client, digest, verdict)
    place = client.post("/undo", data={"sha256": digests[3]}).headers["location"]
    assert place == "/image/3?undone=1"
    assert "Your decision was taken back." in client.get(place).text
    assert client.post("/undo", data={"sha256": digests[0]}).headers["location"] == "/image/1?undone=1"
    assert desk.verdicts() == {digests[1]: "normal"}
    assert client.post("/undo").headers["location"] == "/image/2?undone=1"
    assert client.post("/undo").headers["location"] == "/finish?undone=0"
    place = client.post("/undo", data={"sha256": digests[7]}).headers["location"]
    assert "There is no decision of yours to take back." in client.get(place).text
    assert desk.verdicts() == {}


def test_two_people_at_two_servers_see_and_keep_each_other_s_work(desk: Desk) -> None:
    other = Desk(desk.path, "bob")
    ann, bob, digests = desk.client(), other.client(), desk.digests
    decide(ann, digests[0], "defect")
    assert "by ann" in bob.get("/image/1").text
    assert decide(bob, digests[1], "normal") == "/image/3?judged=2"
    decide(bob, digests[0], "normal")
    decide(ann, digests[2], "unsure")
    assert ann.post("/undo", data={"sha256": digests[0]}).headers["location"] == "/image/3?undone=1"
    assert "by bob" in ann.get("/image/1").text
    assert ann.post("/undo", data={"sha256": digests[1]}).headers["location"] == "/image/1?undone=1"
    assert desk.verdicts() == {digests[0]: "normal", digests[1]: "normal"}
    assert bob.post("/undo", data={"sha256": digests[0]}).headers["location"] == "/image/1?undone=1"
    assert desk.verdicts() == {digests[1]: "normal"}
    assert "<strong>1</strong> of 20 judged" in ann.get("/progress").text


def test_many_at_once_lose_nothing(desk: Desk) -> None:
    people = [Desk(desk.path, who) for who in ("ann", "bob", "cyd")]

    def work(place: int) -> None:
        people[place % 3].review.decide(desk.digests[place % 20], "normal" if place < 20 else "defect")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(40)))
    rows = read_decisions(desk.table)
    assert len(rows) == 40
    assert len(desk.verdicts()) == 20


def test_it_goes_on_where_it_stopped_and_after_half_a_row(desk: Desk) -> None:
    client, digests = desk.client(), desk.digests
    for digest in digests[:4]:
        decide(client, digest, "normal")
    with desk.table.open("a") as file:
        file.write(f"x.png,{digests[4]},def")
    again = Desk(desk.path)
    html = again.client().get("/").text
    assert 'href="/image/5"' in html
    assert "<strong>4</strong> of 20 judged" in html
    decide(again.client(), digests[4], "defect")
    assert again.verdicts() == {**dict.fromkeys(digests[:4], "normal"), digests[4]: "defect"}


def test_a_table_that_somebody_has_spoilt_is_named(desk: Desk) -> None:
    client = desk.client()
    decide(client, desk.digests[0], "normal")
    desk.table.write_text(desk.table.read_text().replace(",normal,", ",fine,"))
    answer = client.get("/")
    assert answer.status_code == 500
    assert "decisions.csv:2: &#39;fine&#39;" in answer.text


def test_progress_counts_everything_once(desk: Desk) -> None:
    client, digests = desk.client(), desk.digests
    for digest, verdict in zip(digests, ("defect", "defect", "normal", "unsure"), strict=False):
        decide(client, digest, verdict)
    desk.table.write_text(desk.table.read_text() + f"gone.png,{'f' * 64},defect,ann,\n")
    progress = desk.review.progress()
    assert (progress.total, progress.judged, progress.defect, progress.normal, progress.unsure) == (20, 4, 2, 1, 1)
    assert (progress.left, progress.earlier) == (None, 1)
    assert "fewer than 30 images" in client.get("/progress").text


def test_decisions_replace_the_estimate(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meds.core.contamination_estimate.FEWEST_IMAGES", 5)
    random = np.random.default_rng(0)
    scores = np.exp(np.concatenate([random.normal(2, 0.05, 6), random.normal(0, 0.2, 14)]))
    items = [replace(item, score=s) for item, s in zip(desk.review.items, -np.sort(-scores), strict=True)]
    monkeypatch.setattr(session, "ranked", lambda run: tuple(items))
    monkeypatch.setattr(session, "class_indices", lambda samples: np.zeros(len(samples)))
    review = session.Review(desk.run, desk.table, "ann")
    before = review.progress().left
    assert before is not None
    assert before.count == pytest.approx(6, abs=1)
    for item in review.items[:4]:
        review.decide(item.digest, "normal")
    after = review.progress().left
    assert after is not None
    assert after.count == pytest.approx(before.count - 4, abs=0.1)


def test_the_end_says_a_command_that_works(desk: Desk, finished: Any, meds: Callable[..., Finished]) -> None:
    client, digests = desk.client(), desk.digests
    decide(client, digests[0], "defect")
    decide(client, digests[1], "normal")
    html = client.get("/finish").text
    command = pages.next_command(desk.review)
    path = desk.path
    table = f"--decisions {path}/decisions.csv --runs-dir {path.parent}"
    assert command == f"meds run {path}/spec.yaml --set name=tiny-reviewed {table}"
    assert command in html
    before = {file: file.read_bytes() for file in path.glob("*.*")}
    done = meds(*shlex.split(command)[1:], "--until", "memory")
    assert done.code == 0, done.err
    paths = [row["path"] for row in finished.rows("data.csv", "tiny-reviewed") if row["split"] == "train"]
    assert desk.review.items[0].name not in paths
    assert len(paths) == 19
    assert {file: file.read_bytes() for file in path.glob("*.*")} == before

    # The same command takes more decisions in; a run of somebody else's keeps its name.
    assert pages.next_command(desk.review) == command
    shutil.rmtree(path.parent / "tiny-reviewed")
    (path.parent / "tiny-reviewed").mkdir()
    assert pages.next_command(desk.review) == command.replace("tiny-reviewed", "tiny-reviewed-2")


@pytest.mark.parametrize("place", [".", "earlier/.."])
def test_a_run_in_which_one_stands(desk: Desk, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    (desk.path / "earlier").mkdir(exist_ok=True)
    monkeypatch.chdir(desk.path)
    review = session.Review(FinishedRun(Path(place)), desk.table, "ann")
    assert f" --runs-dir {desk.path.parent.resolve()}" in pages.next_command(review)


def test_a_reviewed_run_that_is_reviewed_again_is_not_written_over(desk: Desk) -> None:
    again = desk.path.parent / "tiny-reviewed"
    shutil.copytree(desk.path, again)
    spec = again / "spec.yaml"
    text = spec.read_text().replace("name: tiny\n", "name: tiny-reviewed\n")
    spec.write_text(text.replace("decisions: null", f"decisions: {{file: {desk.table}}}"))
    assert "--set name=tiny-reviewed-2 " in pages.next_command(session.Review(FinishedRun(again), desk.table, "ann"))


def test_a_server_that_is_killed_has_lost_nothing(desk: Desk) -> None:
    import httpx2

    server, digests = Server(desk.path), desk.digests
    with httpx2.Client(base_url=server.origin, headers={"origin": server.origin}) as client:
        client.get(server.address)
        for digest in digests[:5]:
            client.post("/decide", data={"sha256": digest, "decision": "defect"})
    server.kill()
    assert desk.verdicts() == dict.fromkeys(digests[:5], "defect")
    server = Server(desk.path)
    with httpx2.Client(base_url=server.origin) as client:
        client.get(server.address)
        assert "<strong>5</strong> of 20 judged" in client.get("/").text
    code, said = server.interrupt()
    assert code == 0
    assert "To train again with what was decided: meds run" in " ".join(said.split())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--who", " "], "--who needs a name of printable characters"),
        (["--who", "a\nb"], "--who needs a name of printable characters"),
        (["--port", "{taken}"], "cannot be used (Address already in use); choose another"),
    ],
)
def test_mistakes(desk: Desk, meds: Callable[..., Finished], arguments: list[str], sentence: str) -> None:
    from meds.review.server import listen

    with listen(0) as taken:
        port = str(taken.getsockname()[1])
        done = meds("review", desk.path, "--no-browser", *[text.format(taken=port) for text in arguments])
    assert (done.code, sentence in done.said) == (2, True), done.err
    assert "Traceback" not in done.err


def test_a_run_made_with_decisions_goes_on_with_them(desk: Desk, meds: Callable[..., Finished]) -> None:
    spec = desk.path / "spec.yaml"
    spec.write_text(spec.read_text().replace("decisions: null", "decisions: {file: /nowhere/decisions.csv}"))
    done = meds("review", desk.path, "--no-browser")
    assert done.code == 2
    assert "made with the decisions in /nowhere/decisions.csv, which is not there" in done.said


def test_filters_are_addresses() -> None:
    assert Filter().query == ""
    assert Filter("a b&c", "unsure").query == "?class=a+b%26c&shown=unsure"


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_have_contrast(scheme: int) -> None:
    """WCAG 2.2, success criterion 1.4.3: 4.5 to 1 for text."""
    style = (Path(review.__file__).parent / "static" / "review.css").read_text()
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme]))
    marks = ("accent", "defect", "normal", "unsure")
    pairs = [(text, ground) for text in ("text", "soft", *marks) for ground in ("ground", "surface")]
    for one, other in [*pairs, *(("on", mark) for mark in marks)]:
        low, high = sorted((luminance(colours[one]), luminance(colours[other])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (one, other)
