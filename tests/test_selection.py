"""The selection by hand: the rule, its schedule over the epochs, and the order of the visits."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stage_cases import LinearStudent, make_context, stored
from torch import Tensor

from meds.core.epochs import AllImages, TrainingLength, batches_of, training_length
from meds.core.errors import SelectionError
from meds.core.scoring import score_map
from meds.core.selection import robust_maximum
from meds.core.student import Progress
from meds.plugins.selection import MedianMad, MedianMadOptions
from meds.stages.options import SELECT_FINETUNE_RECIPES, SelectFinetuneOptions
from meds.stages.scoring_pass import scoring_interval
from meds.stages.select_finetune import SelectFinetune, SelfSelection

NAMES = ["bolt"] * 6 + ["tile"] * 9
FIRST = torch.rand(15, generator=torch.Generator().manual_seed(0)) * 0.5
NOW = torch.rand(15, generator=torch.Generator().manual_seed(1)) * 0.5


def rule(median: str = "lower") -> MedianMad:
    return MedianMad(MedianMadOptions(median=median))


@pytest.mark.parametrize(
    ("median", "factor", "threshold"),
    [("lower", 0.0, 2.0), ("lower", 0.5, 2.5), ("lower", 3.0, 5.0), ("middle", 0.0, 3.0), ("middle", 0.5, 3.75)],
)
def test_rule_by_hand(median: str, factor: float, threshold: float) -> None:
    """Of 1, 2, 4, 10: deviations from 2 are 0, 1, 2, 8; those from 3 are 1, 1, 2, 7."""
    assert rule(median).threshold(torch.tensor([4.0, 1.0, 10.0, 2.0]), factor) == threshold


@pytest.mark.parametrize("count", [1, 2, 7, 8, 51])
def test_rule_against_the_standard_library(count: int) -> None:
    scores = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(count))
    for name, median in (("lower", statistics.median_low), ("middle", statistics.median)):
        middle = median(scores.tolist())
        wanted = middle + 0.7 * median([abs(value - middle) for value in scores.tolist()])
        assert rule(name).threshold(scores, 0.7) == pytest.approx(wanted, abs=1e-15)


class GivenScores(LinearStudent):
    """Its map of an image is the image's entry in NOW at every patch; counts how often it is asked."""

    asked = 0

    def targets(self, features: Any) -> list[Tensor]:
        scores = features[0]
        return [torch.cat([torch.ones_like(scores), torch.zeros_like(scores)], dim=1)]

    def forward(self, features: Any, classes: Tensor) -> list[Tensor]:
        assert not self.training
        GivenScores.asked += 1
        cosine = 1 - features[0]
        return [torch.cat([cosine, (1 - cosine**2).sqrt()], dim=1)]


def selection(folder: Path, first: Tensor = FIRST, **options: Any) -> SelfSelection:
    context = make_context([NOW[:, None, None, None].expand(-1, 1, 2, 2)], NAMES, folder, student_class=GivenScores)
    return SelfSelection(
        SelectFinetuneOptions(**options), context, context.partitions[0], range(len(NAMES)), first, "cosine"
    )


def student(plan: SelfSelection) -> GivenScores:
    GivenScores.asked = 0
    return plan.context.new_student("test")


def low_threshold(scores: list[float], factor: float) -> float:
    middle = statistics.median_low(scores)
    return middle + factor * statistics.median_low([abs(score - middle) for score in scores])


@pytest.mark.parametrize("critical_value", [1.0, 2.5])
@pytest.mark.parametrize("iteration", [0, 1, 2, 4, 5, 7])
def test_an_epoch_follows_algorithm_1(tmp_path: Path, iteration: int, critical_value: float) -> None:
    plan = selection(tmp_path, critical_value=critical_value)
    network = student(plan)
    visited = plan.begin(3, Progress(iteration, 8), network)
    alpha, factor = min(2 * iteration / 8, 1), critical_value * iteration / 8
    mixed = ((1 - alpha) * FIRST.double() + alpha * NOW.double()).tolist()
    wanted: list[int] = []
    for row, (name, places) in zip(plan.rows, (("bolt", range(6)), ("tile", range(6, 15))), strict=True):
        threshold = low_threshold([mixed[i] for i in places], factor)
        below = [i for i in places if mixed[i] < threshold - 1e-6]
        assert row == {
            "iteration": iteration,
            "epoch": 3,
            "class": name,
            "selected": len(below),
            "total": len(places),
            "threshold": pytest.approx(threshold, abs=1e-6),
            "alpha": alpha,
            "k": factor,
            "scored": int(iteration > 0),
        }
        wanted += below
    assert sorted(visited) == wanted
    assert plan.history().tolist() == [[int(i in wanted) for i in range(15)]]
    assert GivenScores.asked == (iteration > 0), "at iteration 0 the first scores alone decide"


def test_each_class_has_its_own_threshold(tmp_path: Path) -> None:
    alone = selection(tmp_path).begin(0, Progress(0, 8), LinearStudent.__new__(LinearStudent))
    scaled = torch.cat([FIRST[:6], 100 * FIRST[6:]])
    plan = selection(tmp_path, scaled)
    assert sorted(plan.begin(0, Progress(0, 8), student(plan))) == sorted(alone)
    assert [row["selected"] for row in plan.rows] == [2, 4]


def test_a_score_at_the_threshold_is_not_selected(tmp_path: Path) -> None:
    first = torch.tensor([1.0, 2, 3, 3, 3, 3, *range(9)])
    plan = selection(tmp_path, first)
    assert sorted(plan.begin(0, Progress(0, 8), student(plan))) == [0, 1, 6, 7, 8, 9]


def test_too_small_a_selection_names_the_class(tmp_path: Path) -> None:
    plan = selection(tmp_path, torch.tensor([0.5] * 6 + [1.0] * 2 + [2.0] * 7))
    message = r"keeps 0 of the 6 training images of the class 'bolt' at iteration 0 .*`minimum_selected: 2`"
    with pytest.raises(SelectionError, match=message):
        plan.begin(0, Progress(0, 8), student(plan))
    plan = selection(tmp_path, minimum_selected=3)
    with pytest.raises(SelectionError, match=r"keeps 2 of the 6 .* class 'bolt'"):
        plan.begin(0, Progress(0, 8), student(plan))


@pytest.mark.parametrize("kind", ["all", "selected"])
def test_order_is_a_permutation_by_seed_and_epoch_alone(tmp_path: Path, kind: str) -> None:
    def order(epoch: int, seed: int) -> list[int]:
        torch.rand(epoch + 3)
        if kind == "all":
            return list(AllImages(30, seed).begin(epoch, Progress(0, 8), LinearStudent.__new__(LinearStudent)))
        plan = selection(tmp_path)
        plan.seed = seed
        return list(plan.begin(epoch, Progress(0, 8), student(plan)))

    first = order(0, 5)
    assert first == order(0, 5)
    assert first != sorted(first)
    for other in (order(1, 5), order(0, 6)):
        assert other != first
        assert sorted(other) == sorted(first)


def test_a_selection_goes_on_after_a_restart(tmp_path: Path) -> None:
    plan, other = selection(tmp_path), selection(tmp_path)
    plan.begin(0, Progress(0, 8), student(plan))
    other.load_state(plan.state())
    for each in (plan, other):
        each.begin(1, Progress(4, 8), student(each))
    assert other.rows == plan.rows
    assert torch.equal(other.history(), plan.history())


def test_scores_are_kept_between_the_epochs_that_score(tmp_path: Path) -> None:
    """Every third epoch scores, the second one first; weight and threshold are those of the iteration in any case."""
    plan, fresh = selection(tmp_path, scoring_interval=3), selection(tmp_path)
    network, scored = student(plan), []
    for epoch in range(9):
        before = GivenScores.asked
        plan.begin(epoch, Progress(epoch, 9), network)
        scored.append(GivenScores.asked > before)
        fresh.begin(epoch, Progress(epoch, 9), network)
    assert [epoch for epoch, asked in enumerate(scored) if asked] == [1, 4, 7]
    assert sorted({row["epoch"] for row in plan.rows if row.pop("scored")}) == [1, 4, 7]
    assert sorted({row["epoch"] for row in fresh.rows if row.pop("scored")}) == list(range(1, 9))
    # The student of this test never changes, so that old scores are as good as new ones.
    assert plan.rows == fresh.rows
    assert torch.equal(plan.history(), fresh.history())


def test_a_long_training_scores_about_ten_times(tmp_path: Path) -> None:
    plan = selection(tmp_path, iterations=200, batch_size=4, holdout=0.0)
    network = student(plan)
    iteration = epoch = 0
    while iteration < 200:
        order = plan.begin(epoch, Progress(iteration, 200), network)
        iteration, epoch = iteration + max(1, len(order) // 4), epoch + 1
    scored = sorted({row["epoch"] for row in plan.rows if row["scored"]})
    assert scored == list(range(1, epoch, plan.interval(network)))
    assert epoch > 60
    assert 8 <= len(scored) <= 12


def test_a_short_training_scores_at_every_epoch(tmp_path: Path) -> None:
    plan = selection(tmp_path, iterations=10, batch_size=4, holdout=0.0)
    assert plan.interval(student(plan)) == 1


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_the_recipes_score_at_every_epoch_whatever_their_length(recipe: str) -> None:
    options = SelectFinetuneOptions(**SELECT_FINETUNE_RECIPES[recipe])
    assert scoring_interval(options, 3629, TrainingLength(10_000, 16, True)) == 1


def test_scores_are_kept_over_a_restart(tmp_path: Path) -> None:
    plan, other = (selection(tmp_path, scoring_interval=5) for _ in range(2))
    plan.begin(0, Progress(0, 8), student(plan))
    plan.begin(1, Progress(2, 8), student(plan))
    other.load_state(plan.state())
    asked = GivenScores.asked
    for each in (plan, other):
        each.begin(2, Progress(4, 8), student(each))
    assert GivenScores.asked == 0 < asked
    assert other.rows == plan.rows
    assert torch.equal(other.history(), plan.history())


@pytest.mark.parametrize(
    ("count", "drop", "sizes"),
    [(10, False, [4, 4, 2]), (10, True, [4, 4]), (8, True, [4, 4]), (3, True, [3]), (3, False, [3])],
)
def test_batches_of_an_epoch(count: int, drop: bool, sizes: list[int]) -> None:
    order = list(range(count))[::-1]
    batches = batches_of(order, TrainingLength(100, 4, drop))
    assert [len(batch) for batch in batches] == sizes
    assert [i for batch in batches for i in batch] == order[: sum(sizes)]


def test_length_of_a_training() -> None:
    defaults = LinearStudent.training_defaults(LinearStudent.__new__(LinearStudent))
    assert training_length(defaults, 30, None, None, None) == TrainingLength(10, 4, False)
    assert training_length(defaults, 3, 7, 16, True) == TrainingLength(7, 3, True)


@pytest.mark.parametrize("criterion", ["memory", "distilled"])
@pytest.mark.parametrize("init", ["random", "distilled"])
def test_the_first_selection_follows_the_criterion(tmp_path: Path, criterion: Any, init: Any) -> None:
    features = torch.randn(15, 4, 5, 5, generator=torch.Generator().manual_seed(2))
    maps = torch.rand(15, 5, 5, generator=torch.Generator().manual_seed(3))
    context = make_context([features], NAMES, tmp_path)
    distilled = context.new_student("distilled")
    context.inputs = {"distilled-student": stored(**distilled.state_dict()), "memory-scores": stored(maps=maps)}
    stage = SelectFinetune(SelectFinetuneOptions(iterations=6, batch_size=3, criterion=criterion, init=init))
    stage.run(context)
    with torch.inference_mode():
        own = score_map([features], distilled([features], torch.zeros(15)))
    scores = robust_maximum(maps if criterion == "memory" else own)
    history = load_file(tmp_path / "output" / "selection.safetensors")["student"].bool()
    for places in (range(6), range(6, 15)):
        threshold = low_threshold(scores[list(places)].tolist(), 0)
        assert history[0, list(places)].tolist() == [scores[i].item() < threshold for i in places]
    wanted = {("distilled-student",)} if "distilled" in (criterion, init) else set()
    assert set(stage.consumes()) == wanted | ({("memory-scores",)} if criterion == "memory" else set())


@pytest.mark.parametrize("init", ["random", "distilled"])
def test_no_student_is_made_that_is_not_trained(tmp_path: Path, init: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[LinearStudent] = []
    build = LinearStudent.__init__
    features = torch.randn(15, 4, 5, 5, generator=torch.Generator().manual_seed(2))
    context = make_context([features], NAMES, tmp_path)
    weights = context.new_student("distilled").state_dict()
    maps = torch.rand(15, 5, 5, generator=torch.Generator().manual_seed(3))
    context.inputs = {"distilled-student": stored(**weights), "memory-scores": stored(maps=maps)}
    monkeypatch.setattr(LinearStudent, "__init__", lambda self, *given: (made.append(self), build(self, *given))[1])
    SelectFinetune(SelectFinetuneOptions(iterations=1, batch_size=3, criterion="memory", init=init)).run(context)
    assert len(made) == 1


@pytest.mark.parametrize("median", ["lower", "middle"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9])
def test_what_the_rule_keeps_at_first(median: str, count: int) -> None:
    scores = torch.rand(count, generator=torch.Generator().manual_seed(count))
    assert rule(median).kept_at_first(count) == int((scores < rule(median).threshold(scores, 0.0)).sum())
