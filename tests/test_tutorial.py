"""The tutorial's commands, one after another as the page has them, on drawn images in place of the solar cells."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Finished, run_command
from pages import fenced_blocks
from PIL import Image

from meds.plugins.datasets.synthetic import SyntheticDataset, SyntheticOptions

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"


@pytest.fixture
def place(tmp_path: Path, tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small spec where the page has the solar cells', and with today's images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").mkdir()
    spec = tiny_spec | {"name": "solar-cells"}
    (tmp_path / "examples" / "solar-cells.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    drawn = SyntheticDataset(SyntheticOptions(classes=["weave"], train=2, image_size=64))
    (tmp_path / "today" / "weave").mkdir(parents=True)
    for number, record in enumerate(drawn.records()[:2]):
        Image.fromarray(drawn.read_image(record)).save(tmp_path / "today" / "weave" / f"{number}.png")
    return tmp_path


def follow(place: Path) -> list[Finished]:
    """Run every command and every listing of the page in its order."""
    done = []
    for language, text in fenced_blocks(PAGE):
        if language == "python":
            exec(compile(text, PAGE.name, "exec"), {})
        for line in text.splitlines() if language == "bash" else ():
            words = shlex.split(line.replace("/data/today", str(place / "today")))
            assert words[0] == "meds"
            done.append(run_command(*words[1:]))
            assert done[-1].code == 0, f"{line}\n{done[-1].err}"
    return done


def test_the_tutorial_goes_from_a_dirty_folder_to_a_clean_one(place: Path) -> None:
    def rows(name: str) -> list[dict[str, str]]:
        with (place / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    done = follow(place)
    assert len(done) == 6
    decisions = {row["sha256"]: row["decision"] for row in rows("runs/solar-cells/decisions.csv")}
    defects = {digest for digest, decision in decisions.items() if decision == "defect"}
    before, after = (
        [row for row in rows(f"runs/{name}/data.csv") if row["split"] == "train"]
        for name in ("solar-cells", "solar-cells-reviewed")
    )
    assert {row["sha256"] for row in before} - {row["sha256"] for row in after} == defects
    for name in ("runs/solar-cells/ranking.html", "compared.html", "runs/solar-cells-reviewed/report.html"):
        assert "</html>" in (place / name).read_text(encoding="utf-8")
    assert len(rows("today/predictions.csv")) == 2
