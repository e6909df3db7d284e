"""The kit for selection rules: which training images a student may keep."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from meds.core.selection import SelectionRule
from meds.testing.base import Kit, check, require
from meds.testing.surroundings import temporary_folder
from meds.testing.tiny_run import MEDS, TinyRun

FACTORS = (0.0, 0.25, 0.5, 1.0, 3.0)


class SelectionRuleKit(Kit):
    """Every check of the contract `SelectionRule`."""

    kind = "selection rule"
    contract = SelectionRule

    def made(self) -> SelectionRule:
        """The rule."""
        rule: SelectionRule = self.implementation()(self.made_options())
        return rule

    def threshold(self, scores: Tensor, factor: float, rule: SelectionRule | None = None) -> float:
        """The threshold of this rule, or of one that is made for the occasion."""
        found: Any = (rule or self.made()).threshold(scores, factor)
        good = isinstance(found, float)
        require(good, f"{self.title} must give its threshold as a Python float, not {type(found).__name__}.")
        return float(found)

    @check
    def test_thresholds_are_finite(self) -> None:
        """Every number of scores gives a finite threshold: a hundred, two, one, equal ones, and large ones."""
        cases = [("a hundred scores", _scores(100)), ("two scores", _scores(2)), ("one score", _scores(1))]
        cases += [("equal scores", torch.full((9,), 0.5)), ("scores of 0", torch.zeros(9))]
        cases += [("large scores", 1e6 * _scores(9)), ("tiny scores", 1e-6 * _scores(9))]
        for what, scores in cases:
            for factor in FACTORS:
                finite = math.isfinite(self.threshold(scores, factor))
                require(finite, f"{self.title} gives a threshold for {what} at the factor {factor} that is not finite.")

    @check
    def test_something_is_selected(self) -> None:
        """Of a hundred ordinary scores at least two lie below the threshold, from the first epoch on."""
        for factor in FACTORS:
            scores = _scores(100)
            below = int((scores < self.threshold(scores, factor)).sum())
            require(below >= 2, f"{self.title} selects {below} of a hundred ordinary images at the factor {factor}.")

    @check
    def test_a_larger_factor_keeps_what_was_selected(self) -> None:
        """The threshold does not fall while the factor grows."""
        scores = _scores(100)
        found = [self.threshold(scores, factor) for factor in FACTORS]
        require(found == sorted(found), f"{self.title} has thresholds that fall while the factor grows: {found}.")

    @check
    def test_order_of_images_plays_no_part(self) -> None:
        """The same scores in another order have the same threshold, up to rounding."""
        scores = _scores(100)
        for factor in FACTORS:
            one, other = self.threshold(scores, factor), self.threshold(scores.flip(0), factor)
            same = math.isclose(one, other, rel_tol=1e-5)
            require(same, f"{self.title} has the threshold {one} for scores and {other} for the same in another order.")

    @check
    def test_same_scores_give_the_same_threshold(self) -> None:
        """The threshold is a function of scores, factor and options, and the scores are left as they are."""
        scores = _scores(33)
        kept = scores.clone()
        for factor in FACTORS:
            same = self.threshold(scores, factor) == self.threshold(scores, factor)
            require(same, f"{self.title} has another threshold for the same scores when it is asked again.")
        require(torch.equal(kept, scores), f"{self.title} changes the scores that it is given in place.")

    @check
    def test_earlier_questions_play_no_part(self) -> None:
        """One rule that is asked all through a training answers like a new one, which a resumed run asks."""
        rule = self.made()
        # Two classes in turn while the factor grows, as in a training; then the same once more.
        asked = [(_scores(count), factor) for factor in FACTORS for count in (33, 100)]
        for scores, factor in (*asked, *asked):
            kept, new = self.threshold(scores, factor, rule), self.threshold(scores, factor)
            require(
                kept == new,
                f"{self.title} has the threshold {kept} after it was asked before, and a new one has {new}: a run that "
                "is resumed would select otherwise; keep nothing from one call to the next.",
            )

    @check
    def test_selection_runs_with_it(self) -> None:
        """The whole method runs with this rule."""
        stages = [{**block, "rule": self.block()} if block["type"] == "select-finetune" else block for block in MEDS]
        with temporary_folder() as folder:
            run = TinyRun(self.registry(), folder, stages)
            run.run()
            selected = run.artifact("select-finetune").tensors("selection")["student"]
            require(bool(selected.any()), f"{self.title} ends a run without a selected image.")


def _scores(count: int) -> Tensor:
    """Scores as a class with a few defects has them: most around 0.3, one in ten three times as large."""
    generator = torch.Generator().manual_seed(0)
    scores = 0.3 + 0.05 * torch.randn(count, generator=generator)
    scores[9::10] *= 3
    return scores
