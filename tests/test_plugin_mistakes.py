"""A plugin's mistake that no contract class can show is told in one sentence, and changes nothing behind its back."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Finished

from meds.core.data import scan
from meds.core.dataset import Dataset, DatasetOptions, Record
from meds.core.errors import DataError, PluginError, UserError
from meds.core.events import Events, RunLogger
from meds.core.extract import encode
from meds.core.files import digest_of
from meds.core.finished_run import FinishedRun
from meds.core.model import EvaluationDefaults
from meds.core.plan import file_digests
from meds.core.registry import Options
from meds.core.runtime import Runtime
from meds.core.selection import SelectionRule, checked_threshold
from meds.core.store import ArtifactWriter
from meds.core.student import TrainingDefaults


class InMemory(Dataset[DatasetOptions]):
    """Images made of their paths, unless the records say otherwise."""

    def __init__(self, listed: Sequence[Record]) -> None:
        super().__init__(DatasetOptions())
        self.listed = listed

    def records(self) -> Sequence[Record]:
        return self.listed

    def read_image(self, record: Record) -> Any:
        seed = sum((record.split + record.path).encode())
        return np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)

    def read_mask(self, record: Record) -> Any:
        return None if record.mask is None else np.ones((6, 8), np.uint8)

    def image_size(self, record: Record) -> tuple[int, int]:
        return 6, 8

    def mask_size(self, record: Record) -> tuple[int, int] | None:
        return None if record.mask is None else (6, 8)


TRAIN = [Record(f"{number}.png", "nut", "train", 0) for number in range(3)]


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        ([], "The dataset lists no images"),
        ([*TRAIN, Record("0.png", "nut", "test", 1)], "0.png: the dataset gives two images under this path"),
        ([*TRAIN, Record("v.png", "nut", "val")], "v.png: the dataset puts it into the split 'val': 'train' or 'test'"),  # type: ignore[arg-type]
        ([*TRAIN, Record("t.png", "nut", "test", "good")], "t.png: the dataset labels it 'good': 0"),  # type: ignore[arg-type]
    ],
)
def test_records_that_cannot_be_are_named(records: list[Record], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        scan(InMemory(records), None)


def test_images_and_masks_of_another_kind_are_named() -> None:
    class Grey(InMemory):
        def read_image(self, record: Record) -> Any:
            return super().read_image(record)[..., 0] / 255

    record = Record("0.png", "nut", "test", 1, "dent", "mask.png")
    with pytest.raises(PluginError, match=r"0.png: the dataset gives its image as float64 \[6, 8\], and must give RGB"):
        Grey([record]).image(record)
    with pytest.raises(PluginError, match=r"0.png: the dataset gives its mask as uint8 \[6, 8\], and must give bool"):
        InMemory([record]).mask(record)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"smoothing": "gauss5"}, "smoothing cannot be 'gauss5': it is one of none, gaussian, gaussian5"),
        ({"upsampling": "bicubic"}, "upsampling cannot be 'bicubic'"),
        ({"mask_rule": "all"}, "mask_rule cannot be 'all'"),
        ({"sigma": -1.0}, "sigma cannot be -1.0"),
    ],
)
def test_evaluation_defaults_take_what_they_name(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PluginError, match=sentence):
        EvaluationDefaults(**changes)


@pytest.mark.parametrize("length", [{}, {"iterations": 2, "epochs": 3}])
def test_a_training_has_one_length(length: dict[str, int]) -> None:
    with pytest.raises(PluginError, match="exactly one of iterations and epochs"):
        TrainingDefaults(torch.optim.SGD, lambda *_: 0.1, 4, **length)  # type: ignore[arg-type]


class Rule(SelectionRule):
    def threshold(self, scores: Any, factor: float) -> Any:
        return self.options


@pytest.mark.parametrize(("given", "kept"), [(torch.tensor(0.5), 2), (math.inf, 3), (-math.inf, 0), (1, 2)])
def test_thresholds_are_finite_numbers(given: Any, kept: int) -> None:
    scores = torch.tensor([0.1, 0.2, 7.0])
    threshold = checked_threshold(Rule(given), scores, 1.0)
    json.dumps(threshold, allow_nan=False)
    assert int((scores < threshold).sum()) == kept


@pytest.mark.parametrize("given", [math.nan, None, "0.5 or so", torch.ones(2)])
def test_a_threshold_that_is_no_number_is_the_rule_s_fault(given: Any) -> None:
    with pytest.raises(PluginError, match=r"The selection rule Rule gave .* as the threshold of 3 scores"):
        checked_threshold(Rule(given), torch.ones(3), 1.0)


def test_a_logger_disturbs_no_random_numbers(tmp_path: Path) -> None:
    class Seeding(RunLogger):
        def iteration(self, run: Path, stage: str, facts: dict[str, Any]) -> None:
            torch.manual_seed(7)
            np.random.seed(7)
            random.seed(7)
            raise ValueError("and fails")

    def drawn() -> tuple[float, float, float]:
        return torch.rand(1).item(), np.random.rand(), random.random()

    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    drawn()
    expected = drawn()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    drawn()
    events = Events(tmp_path, [("seeding", Seeding(None))])
    events.emit("iteration", stage="fit", loss=1.0)
    assert not events.loggers
    assert drawn() == expected


def test_the_description_of_an_artifact_is_not_written_over(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="'manifest' is the name of the artifact's own description"):
        ArtifactWriter(tmp_path / "work").write_json("manifest", {})


class Inner(Options):
    table: Path


class Several(Options):
    files: list[Path]
    by_name: dict[str, Path]
    inner: Inner
    folder: Path
    missing: Path


def test_all_files_and_folders_that_options_name_count(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / name).write_text(name)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "x").write_text("x")
    options = Several(
        files=[tmp_path / "a"],
        by_name={"b": tmp_path / "b"},
        inner=Inner(table=tmp_path / "c"),
        folder=folder,
        missing=tmp_path / "nowhere",
    )
    before = file_digests(options)
    assert set(before) == {"files.0", "by_name.b", "inner.table", "folder"}
    for path in (tmp_path / "a", tmp_path / "b", tmp_path / "c", folder / "x"):
        path.write_text("other")
    after = file_digests(options)
    assert all(after[name] != digest for name, digest in before.items())
    (folder / "x").rename(folder / "y")
    assert digest_of(folder) != after["folder"]


def test_an_encoder_that_gives_other_maps_than_it_says_is_named(finished: Any) -> None:
    backbone = FinishedRun(finished.file("")).pipeline.backbone
    first = backbone.layers[0]

    class Other:
        name, preprocessing = "other", backbone.preprocessing

        def layer(self, _: str) -> Any:
            return first

        def features(self, images: Any, layers: Sequence[str]) -> list[Any]:
            return [torch.zeros(len(images), first.channels + 1, first.height, first.width) for _ in layers]

    with pytest.raises(PluginError, match=r"The backbone 'other' gives maps of shapes \[\[2, "):
        encode(Other(), torch.zeros(2, 3, 64, 64), [first.name], Runtime("cpu", "fp32", 1))  # type: ignore[arg-type]


def test_a_plugin_that_has_changed_since_the_run_does_not_score(
    finished: Any, meds: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = finished.file("run.json")
    state = json.loads(path.read_text())
    assert state["plugins"] == {}
    state["plugins"] = {"student 'rd'": ["rd", "others-rd", "1.0", "", "abc"]}
    path.write_text(json.dumps(state))
    run = FinishedRun(finished.file(""))
    monkeypatch.setattr(
        "meds.core.finished_run.foreign_plugins", lambda _: {"student 'rd'": ["rd", "others-rd", "1.1", "", "abd"]}
    )
    with pytest.raises(UserError, match=r"student 'rd' of the package others-rd has changed .* version 1.0 .*: 1.1"):
        run.scorer()
    assert meds("rank", finished.file("")).code == 0


def test_a_finished_run_is_opened_without_its_loggers(finished: Any) -> None:
    path = finished.file("spec.yaml")
    path.write_text(path.read_text().replace("loggers: []", "loggers: [{type: not-installed}]"))
    assert FinishedRun(finished.file("")).scorer()
