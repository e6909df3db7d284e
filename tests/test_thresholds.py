"""The thresholds of one class by hand: its scores, the heatmap's scale, and another wanted false-alarm rate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from meds.core.thresholds import ClassThreshold, Thresholds, TrainingScores, class_thresholds


def of_one_class(peaks: list[float], middles: list[float], normal: list[float], rate: float) -> dict[str, Any]:
    """The thresholds of a class all of whose images are held out; image scores are a tenth of the peaks."""
    everyone = np.ones(len(peaks), dtype=bool)
    scores = TrainingScores(
        np.array(peaks) / 10, np.array(peaks), np.array(middles), np.zeros(len(peaks), dtype=np.int64)
    )
    return class_thresholds(scores, 0, everyone, everyone, np.array(normal), rate)


def test_likely_defects_do_not_move_the_heatmap_s_scale() -> None:
    """It begins at 2, the median of 1 and 3, and has the pixel threshold in its middle: 12, 10 above."""
    found = of_one_class([10.0, 12.0, 100.0], [1.0, 3.0, 50.0], [1.0, 1.0, 0.1], 0.01)
    assert (found["threshold"], found["pixel_threshold"]) == (1.2, 12.0)
    assert found["heatmap"] == [2.0, 22.0]


def test_where_none_is_likely_normal_the_likeliest_give_the_scale() -> None:
    found = of_one_class([10.0, 12.0, 100.0], [1.0, 3.0, 50.0], [0.4, 0.4, 0.1], 0.01)
    assert found["heatmap"][0] == 2.0


def test_the_heatmap_s_scale_begins_no_higher_than_the_pixel_threshold() -> None:
    """Of 1, 10 and 11 the first is the threshold of nine false alarms in ten, and the median map lies at 8."""
    found = of_one_class([1.0, 10.0, 11.0], [1.0, 8.0, 9.0], [1.0, 1.0, 1.0], 0.9)
    assert found["pixel_threshold"] == 1.0
    assert found["heatmap"] == [1.0, pytest.approx(1.0)]
    assert found["heatmap"][1] > 1.0


def test_another_rate_chooses_the_thresholds_of_images_and_pixels_again() -> None:
    """With nine images of each kind, a rate of 0.2 is the eighth score and one of 0.5 the fifth."""
    scores = np.arange(1.0, 10.0)
    row = ClassThreshold(0.0, 0.0, (0.0, 1.0), scores, 10 * scores, np.ones(9), held_out=True)
    thresholds = Thresholds({"tile": row})
    for rate, place in ((0.2, 8.0), (0.5, 5.0)):
        thresholds.set_false_alarm_rate(rate)
        assert (thresholds.image, thresholds.pixel) == ({"tile": place}, {"tile": 10 * place})
