"""Decisions of people: the table, who stands at the end, and what they do to a run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meds.core.data import Sample
from meds.core.dataset import Record
from meds.core.decision_table import append_decision, mended_decisions, read_decisions
from meds.core.decisions import Decision, apply_decisions, decided_now, standing
from meds.core.errors import DataError
from meds.core.finished_run import FinishedRun


def decision(digest: str, verdict: str, who: str = "ann", path: str = "a.png") -> Decision:
    return Decision(path, digest, verdict, who, "2026-01-01T00:00:00+00:00")


def test_rows_come_back_in_their_order(tmp_path: Path) -> None:
    rows = [
        decision("1", "defect", path='odd, "name"\n<b>.png'),
        decision("2", "normal", who="Ärger"),
        decision("1", "undone"),
    ]
    for row in rows:
        append_decision(tmp_path / "new" / "decisions.csv", row)
    assert read_decisions(tmp_path / "new" / "decisions.csv") == rows
    assert (tmp_path / "new" / "decisions.csv").read_text().startswith("path,sha256,decision,who,when\n")


def test_the_last_decision_about_an_image_stands() -> None:
    rows = [
        decision("1", "defect"),
        decision("1", "normal", who="bob"),
        decision("2", "unsure"),
        decision("3", "defect"),
        decision("3", "undone"),
    ]
    assert {digest: row.decision for digest, row in standing(rows).items()} == {"1": "normal", "2": "unsure"}


def test_many_reviewers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: append_decision(path, decision(str(i), "normal", who=f"r{i % 4}")), range(100)))
    assert sorted(int(row.sha256) for row in read_decisions(path)) == list(range(100))


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1))
def test_any_path_survives(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("any") / "decisions.csv"
    sample = Sample(Record(text, "a", "train"), "abc", 0)
    append_decision(path, decided_now(sample, "defect", "ann"))
    assert [row.path for row in read_decisions(path)] == [text]


def test_half_a_row_is_named_and_the_next_row_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    append_decision(path, decision("1", "normal"))
    with path.open("a") as file:
        file.write("b.png,2,def")
    with pytest.raises(DataError, match=r"decisions.csv:3: 'def' for 'b.png' is not understood"):
        read_decisions(path)
    append_decision(path, decision("3", "normal"))
    assert [row.sha256 for row in read_decisions(path)] == ["1", "3"]


def test_a_process_killed_at_any_byte_costs_its_own_row_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)
    path = tmp_path / "decisions.csv"
    rows = [decision("1", "normal", path='odd, "name"\nünd.png'), decision("2", "defect", path='more"\n"odd.png')]
    for row in rows:
        append_decision(path, row)
    content = path.read_bytes()
    ends = [content.index(b'"more'), len(content)]
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        found = mended_decisions(path)
        whole = sum(cut >= end for end in ends)
        assert [row.sha256 for row in found][:whole] == ["1", "2"][:whole]
        append_decision(path, decision("3", "unsure"))
        assert read_decisions(path) == [*found, decision("3", "unsure")]


def test_a_last_row_written_by_hand_without_a_line_s_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    path.write_text("path,sha256,decision\na.png,1,defect")
    append_decision(path, decision("2", "normal"))
    assert [row.sha256 for row in read_decisions(path)] == ["1", "2"]


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8", b"a letter,\nnot a table"])
def test_a_file_that_is_no_table_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    for use in (read_decisions, mended_decisions, lambda place: append_decision(place, decision("1", "normal"))):
        with pytest.raises(DataError, match=r"picture\.png"):
            use(path)
    assert path.read_bytes() == content


def test_a_table_with_the_columns_in_another_order_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    path.write_text("decision,sha256,note,path,who,when\nnormal,1,dust,a.png,ann,2026-11-25\n", encoding="utf-8-sig")
    append_decision(path, decision("2", "defect"))
    assert [(row.sha256, row.decision, row.who) for row in read_decisions(path)] == [
        ("1", "normal", "ann"),
        ("2", "defect", decision("2", "defect").who),
    ]


def test_a_mistake_in_the_middle_is_never_mended(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    text = "path,sha256,decision\na.png,1,defekt\nb.png,2,def"
    path.write_text(text)
    with pytest.raises(DataError, match="'defekt'"):
        append_decision(path, decision("3", "normal"))
    assert path.read_text() == text


TABLE = "path,sha256,decision,who,when\na.png,1,defect,ann,t\nb.png,2,normal,ann,t\nc.png,3,defect,ann,t\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (TABLE.replace("b.png", '"b.png'), r"d.csv:3: a quotation mark opens in this row and never closes"),
        (TABLE.replace("2,normal,ann", '2,normal,"ann'), r"d.csv:3: a quotation mark opens in this row"),
        (TABLE.replace("b.png", '"b.png').replace("c.png", 'c".png'), r"d.csv:4: this is no row of a table"),
        (TABLE + "d.png,4,Defekt,ann,t", r"d.csv:5: 'defekt' for 'd.png' is not understood"),
    ],
)
def test_a_mistake_made_by_hand_is_named_and_nothing_is_cut_off(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "d.csv"
    path.write_text(text)
    for use in (mended_decisions, lambda place: append_decision(place, decision("5", "normal"))):
        with pytest.raises(DataError, match=sentence):
            use(path)
    with pytest.raises(DataError, match=r"d\.csv:\d: "):
        read_decisions(path)
    assert path.read_text() == text


def test_a_killed_process_s_row_does_not_take_the_next_ones_with_it(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text(TABLE + 'd.png,4,defect,"Smi')
    for digest in ("5", "6"):
        append_decision(path, decision(digest, "normal", who="Smith, Ann"))
    assert [row.sha256 for row in read_decisions(path)] == ["1", "2", "3", "5", "6"]


def test_taking_back_restores_what_somebody_else_had_decided() -> None:
    rows = [decision("1", "normal", who="bob"), decision("1", "defect"), decision("1", "undone")]
    assert {digest: (row.decision, row.who) for digest, row in standing(rows).items()} == {"1": ("normal", "bob")}
    rows += [decision("1", "unsure", who="bob"), decision("1", "undone", who="bob"), decision("1", "undone", who="bob")]
    assert standing(rows) == {}


def test_taking_back_leaves_what_somebody_else_has_decided_since() -> None:
    rows = [decision("1", "defect"), decision("1", "normal", who="bob"), decision("1", "undone")]
    assert {digest: (row.decision, row.who) for digest, row in standing(rows).items()} == {"1": ("normal", "bob")}


def test_what_a_spreadsheet_makes_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("path,sha256,decision\na.png,1, Defect \nb.png,2,NORMAL\n")
    assert [decision.decision for decision in read_decisions(path)] == ["defect", "normal"]
    path.write_text("path;sha256;decision\na.png;1;defect\n")
    with pytest.raises(
        DataError, match=r"d.csv:1: the column 'path' is missing; .* separated by commas, not semicolons"
    ):
        read_decisions(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("path,decision\n", r"d.csv:1: the column 'sha256' is missing"),
        ("path,sha256,decision\na,1,bad\n", r"d.csv:2: 'bad' for 'a' is not understood; a decision is defect"),
        ("path,sha256,decision\na,,normal\n", r"d.csv:2: 'normal' for 'a' is not understood"),
        (None, r"d.csv: the decisions cannot be read: there is no such file"),
    ],
)
def test_mistakes_in_a_table(tmp_path: Path, text: str | None, sentence: str) -> None:
    if text is not None:
        (tmp_path / "d.csv").write_text(text)
    with pytest.raises(DataError, match=sentence):
        read_decisions(tmp_path / "d.csv")


def decide(project: Any, verdicts: dict[str, str]) -> Path:
    """A table of decisions about the images of these paths."""
    path = project.root / "decisions.csv"
    for row in project.rows("data.csv"):
        if row["split"] == "train" and row["path"] in verdicts:
            append_decision(path, decision(row["sha256"], verdicts[row["path"]], path=row["path"]))
    return path


def test_defects_leave_and_confirmed_images_are_always_selected(finished: Any) -> None:
    ranking = finished.rows("ranking.csv")
    defects = {row["path"] for row in ranking if row["injected"] == "1"}
    kept = next(row["path"] for row in ranking if row["selected"] == "0" and row["injected"] == "0")
    table = decide(finished, {**dict.fromkeys(defects, "defect"), kept: "normal"})
    append_decision(table, decision("of another run", "defect"))
    done = finished.run_well("--decisions", table)
    assert "images that are not among the training images: 1" in done.said
    assert "4 confirmed defects removed" in done.said
    rows = finished.rows("ranking.csv")
    assert not defects & {row["path"] for row in rows}
    assert {row["selected"] for row in rows if row["path"] == kept} == {"1"}
    noise = finished.json("metrics.json")["noise"]
    assert noise["decisions"]["weave"]["known_defects_left"] == 0
    assert noise["total"]["in_both_splits"] == 0


def test_confirmed_images_alone_leave_memory_and_distillation_as_they_are(finished: Any) -> None:
    kept = next(row["path"] for row in finished.rows("ranking.csv") if row["selected"] == "0")
    finished.run_well("--decisions", decide(finished, {kept: "normal"}))
    assert finished.computed()[4:] == ["select-finetune", "evaluate"]


def test_defects_may_enter_the_test(finished: Any) -> None:
    (path, *_) = [row["path"] for row in finished.rows("ranking.csv") if row["injected"] == "0"]
    before = len(finished.rows("predictions.csv"))
    finished.run_well("--decisions", decide(finished, {path: "defect"}), "--set", "decisions.defects_to_test=true")
    rows = finished.rows("predictions.csv")
    assert len(rows) == before + 1
    assert [row["label"] for row in rows if row["path"] == path] == ["1"]
    (moved,) = [row for row in finished.rows("data.csv") if row["path"] == path]
    assert (moved["split"], moved["defect"]) == ("test", "")


def test_a_defect_that_is_there_twice_enters_the_test_once(finished: Any) -> None:
    data = FinishedRun(finished.runs / "tiny").data
    defect = next(sample for sample in data.train if sample.injected)
    twice = replace(data, train=(*data.train, defect), test=tuple(s for s in data.test if s.digest != defect.digest))
    decision = Decision(defect.record.path, defect.digest, "defect", "ann", "2026-11-26T10:00:00+00:00")
    found = apply_decisions(twice, {defect.digest: decision}, defects_to_test=True)
    assert [sample.digest for sample in found.test].count(defect.digest) == 1
    assert len(found.train) == len(data.train) - 1


def test_a_class_that_loses_its_images_is_named(finished: Any) -> None:
    paths = {row["path"]: "defect" for row in finished.rows("ranking.csv") if row["class"] == "weave"}
    done = finished.run("--decisions", decide(finished, paths))
    assert done.code == 2
    assert "The class 'weave' has 0 training images" in done.said
