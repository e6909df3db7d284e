"""The kit for selection rules catches a broken rule with every one of its checks."""

from __future__ import annotations

from typing import Any

import pytest
from kit_cases import OF_EVERY_KIT, caught, kit_of

from meds.core.selection import SelectionRule
from meds.plugins.selection import MedianMad, MedianMadOptions
from meds.testing import SelectionRuleKit


def rule(function: Any) -> type[SelectionRule]:
    """A rule whose threshold is what the function makes of scores and factor."""

    class Made(SelectionRule):
        def threshold(self, scores, factor):
            return function(scores, factor)

    return Made


class Remembers(SelectionRule):
    calls = 0

    def threshold(self, scores, factor):
        type(self).calls += 1
        return float(scores.median()) + factor * self.calls


class CountsItsCalls(SelectionRule):
    """The first answer is that of every new rule."""

    def __init__(self, options):
        super().__init__(options)
        self.calls = 0

    def threshold(self, scores, factor):
        self.calls += 1
        return float(scores.median()) + factor * self.calls


class NeverFalls(SelectionRule):
    """Keeps the largest threshold that there was, of whatever class."""

    largest = 0.0

    def threshold(self, scores, factor):
        self.largest = max(self.largest, float(scores.median()) * (1 + factor))
        return self.largest


def in_place(scores: Any, factor: float) -> float:
    scores.copy_(scores.sort().values)
    return float(scores[len(scores) // 2])


def without_a_scale(scores: Any, factor: float) -> float:
    middle = scores.median()
    return float(middle + factor / (scores - middle).abs().median())


def broken_in_a_run(scores: Any, factor: float) -> float:
    if len(scores) == 8:
        raise RuntimeError("eight is too few")
    return float(scores.median() + factor)


@pytest.mark.parametrize(
    ("check", "found", "sentence"),
    [
        ("test_it_loads", object, "must be a subclass of SelectionRule"),
        ("test_thresholds_are_finite", rule(without_a_scale), "for two scores at the factor 0.0 that is not finite"),
        ("test_thresholds_are_finite", rule(lambda scores, k: scores.median()), "as a Python float, not Tensor"),
        ("test_something_is_selected", rule(lambda scores, k: float(scores.min())), "selects 0 of a hundred"),
        (
            "test_a_larger_factor_keeps_what_was_selected",
            rule(lambda scores, k: float(scores.max()) - k),
            "fall while the factor grows",
        ),
        ("test_order_of_images_plays_no_part", rule(lambda scores, k: float(scores[50])), "the same in another order"),
        ("test_same_scores_give_the_same_threshold", Remembers, "another threshold for the same scores"),
        ("test_same_scores_give_the_same_threshold", rule(in_place), "changes the scores that it is given in place"),
        ("test_earlier_questions_play_no_part", CountsItsCalls, "and a new one has .*: a run that is resumed would"),
        ("test_earlier_questions_play_no_part", NeverFalls, "keep nothing from one call to the next"),
        ("test_selection_runs_with_it", rule(broken_in_a_run), "raised RuntimeError: eight is too few"),
    ],
)
def test_a_broken_selection_rule_is_caught(check: str, found: Any, sentence: str) -> None:
    caught(SelectionRuleKit, found, check, sentence)


def test_a_selection_rule_with_options() -> None:
    kit_of(SelectionRuleKit, MedianMad, MedianMadOptions, options={"median": "middle"}).test_something_is_selected()


def test_every_check_of_the_kit_catches_something() -> None:
    (marks,) = test_a_broken_selection_rule_is_caught.pytestmark
    assert {check for check, *_ in marks.args[1]} | OF_EVERY_KIT == set(SelectionRuleKit.checks)
