"""Images that are held out: none of them reaches a training step, and what is stored names the same ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stage_cases import LinearStudent, make_context, stored
from torch import Tensor

from meds.core.calibration import held_out
from meds.core.errors import SelectionError
from meds.core.partitions import partitions_of
from meds.core.seeds import derive_seed
from meds.core.stage import StageContext
from meds.core.student import Progress
from meds.stages import fit, select_finetune
from meds.stages.options import FitOptions, SelectFinetuneOptions

# The classes take turns, so that an image has another place in its class than in the data.
NAMES = ["bolt", "tile"] * 32
SHARE = 0.5
STAGES = {
    "fit": fit.Fit(FitOptions(iterations=3, batch_size=64, holdout=SHARE)),
    "select-finetune": select_finetune.SelectFinetune(
        SelectFinetuneOptions(iterations=3, batch_size=64, holdout=SHARE, init="random", criterion="memory")
    ),
}


class NotingStudent(LinearStudent):
    """Notes which images its loss is asked for: the first channel of an image's map holds its number."""

    seen: set[int]

    def loss(self, targets: Sequence[Tensor], outputs: Sequence[Tensor], progress: Progress) -> Tensor:
        NotingStudent.seen |= {int(number) for number in targets[0][:, 0, 0, 0].tolist()}
        return super().loss(targets, outputs, progress)


def numbered(folder: Path, classes: Any) -> StageContext:
    """A context whose images carry their number, and whose memory finds some of them suspicious by chance."""
    maps = torch.randn(len(NAMES), 3, 4, 4, generator=torch.Generator().manual_seed(0))
    maps[:, 0] = torch.arange(float(len(NAMES)))[:, None, None]
    scores = torch.rand(len(NAMES), 4, 4, generator=torch.Generator().manual_seed(1))
    context = make_context([maps], NAMES, folder, {"memory-scores": stored(maps=scores)}, NotingStudent)
    return replace(context, partitions=partitions_of(classes, context.data.class_names))


def wanted(context: StageContext) -> set[int]:
    """Positions of the images that are to be held out, from `held_out` for each partition by itself."""
    out: set[int] = set()
    for partition in context.partitions:
        positions = partition.positions(context.data.train)
        samples = [context.data.train[i] for i in positions]
        seed = derive_seed(context.seed, partition.name)
        out |= {int(samples[i].digest) for i in held_out(samples, SHARE, seed)}
    return out


@pytest.mark.parametrize("classes", ["unified", "separate"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_held_out_image_reaches_no_training_step(tmp_path: Path, stage: str, classes: str) -> None:
    context = numbered(tmp_path, classes)
    NotingStudent.seen = set()
    STAGES[stage].run(context)
    out = wanted(context)
    noted = load_file(tmp_path / "output" / "holdout.safetensors")["images"].tolist()
    for name in ("bolt", "tile"):
        members = {i for i, other in enumerate(NAMES) if other == name}
        assert {i for i in members if noted[i]} == out & members
        assert len(out & members) == SHARE * len(members)
        assert NotingStudent.seen & members, "the class was trained on"
    assert not NotingStudent.seen & out
    if stage == "fit":
        assert NotingStudent.seen == set(range(len(NAMES))) - out
    else:
        history = torch.cat(list(load_file(tmp_path / "output" / "selection.safetensors").values()))
        assert history[:, list(out)].any(), "a held-out image may be selected all the same"


@pytest.mark.parametrize(
    ("holdout", "minimum", "confirmed", "sentence"),
    [
        (0.5, 15, 0, None),  # 15 of 32 lie below the median, and may all be among the 16 that are left
        (0.5, 16, 0, "has 32 training images, of which the selection would keep 15 at first"),
        (0.5, 17, 32, "`holdout: 0.5` leaves 16 to train on, fewer than `minimum_selected: 17`: lower `holdout`"),
        (0.0, 15, 0, None),
        (0.0, 16, 1, None),  # who is known to be normal is selected
    ],
)
def test_too_small_a_class_is_found_before_the_training(
    tmp_path: Path, holdout: float, minimum: int, confirmed: int, sentence: str | None
) -> None:
    context = numbered(tmp_path, "separate")
    train = context.data.train
    certain = tuple(replace(sample, confirmed=i < 2 * confirmed) for i, sample in enumerate(train))
    context = replace(context, data=replace(context.data, train=certain))
    stage = select_finetune.SelectFinetune(SelectFinetuneOptions(holdout=holdout, minimum_selected=minimum))
    with nullcontext() if sentence is None else pytest.raises(SelectionError, match=re.escape(sentence)):
        stage.check(context)


def test_a_selection_of_held_out_images_alone_is_told(tmp_path: Path) -> None:
    context = numbered(tmp_path, "unified")
    first = torch.arange(64.0)
    out = list(wanted(context))
    first[out] -= 100
    options = SelectFinetuneOptions(holdout=SHARE)
    plan = select_finetune.SelfSelection(options, context, context.partitions[0], range(64), first, "cosine")
    message = r"keeps 15 of the 32 .* class 'bolt' at iteration 0 .*, and 0 of them are not held out, .*lower `holdout`"
    with pytest.raises(SelectionError, match=message):
        plan.begin(0, Progress(0, 8), context.new_student("a"))


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The digests of all images that a run's `fit` or `select-finetune` trains on."""
    digests: set[str] = set()

    def noting(context: Any, student: Any, samples: Any, objective: Any, *others: Any) -> None:
        def asked(student: Any, features: Any, positions: Any, *more: Any) -> Tensor:
            digests.update(samples[i].digest for i in positions)
            return objective(student, features, positions, *more)

        original(context, student, samples, asked, *others)

    original = fit.train
    monkeypatch.setattr(fit, "train", noting)
    monkeypatch.setattr(select_finetune, "train", noting)
    return digests


@pytest.mark.parametrize("stage", ["fit", "select-finetune"])
def test_the_thresholds_of_a_run_come_from_images_that_it_did_not_train_on(
    project: Any, tiny_spec: dict[str, Any], trained_on: set[str], stage: str
) -> None:
    tiny_spec["dataset"] |= {"classes": ["weave"], "train": 36}
    before = {"fit": tiny_spec["stages"][:0], "select-finetune": tiny_spec["stages"][:2]}[stage]
    training = {"type": stage, "iterations": 3, "batch_size": 45, "holdout": SHARE}
    project.run_well(spec={**tiny_spec, "stages": [*before, training, tiny_spec["stages"][-1]]})
    digests = np.array([row["sha256"] for row in project.rows("data.csv") if row["split"] == "train"])
    scores = load_file(Path(project.json("evaluate/artifact.json")["path"]) / "scores.safetensors")
    unseen = set(digests[scores["unseen"].bool().numpy()])
    assert trained_on
    assert not trained_on & unseen
    row = project.json("metrics.json")["calibration"]["weave"]
    assert row["held_out"]
    assert row["wanted"] == 0.01
    assert 1 <= row["images"] <= len(unseen) == 20
    # Where the estimate says how likely images are to be normal, they count as fractions.
    assert row["expected"] >= 1 / (row["images"] + 1) - 1e-9
    assert row["low"] < row["expected"] < row["high"]
    assert row["heatmap"][0] < row["pixel_threshold"] < row["heatmap"][1]
    assert project.json("metrics.json")["thresholds"]["weave"] == row["threshold"]
