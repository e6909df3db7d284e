"""Work on several items side by side: in order, each on one thread, and nothing is changed for what comes after."""

from __future__ import annotations

import threading

import pytest
import torch

from meds.core.runtime import Precision, Runtime, described_precision


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order_and_the_threads_stay_as_they_were(threads: int) -> None:
    before = torch.get_num_threads()
    try:
        runtime = Runtime("cpu", "fp32", threads)

        def work(item: int) -> tuple[int, int]:
            return item * item, torch.get_num_threads()

        found = list(runtime.side_by_side(work, range(20)))
        assert [square for square, _ in found] == [item * item for item in range(20)]
        assert {used for _, used in found} == {1}
        later: list[int] = []
        other = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert torch.get_num_threads() == threads
        assert later == [threads]
    finally:
        torch.set_num_threads(before)


def test_an_error_of_one_item_is_raised_and_the_threads_are_restored() -> None:
    before = torch.get_num_threads()
    try:
        runtime = Runtime("cpu", "fp32", 2)

        def work(item: int) -> int:
            return 1 // item

        with pytest.raises(ZeroDivisionError):
            list(runtime.side_by_side(work, range(3)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_description_tells_the_precision(precision: Precision) -> None:
    before = torch.get_num_threads()
    assert described_precision(Runtime("cpu", precision, before).describe()) == precision
    assert described_precision("cuda:0 (bf16)") == "bf16"
    assert described_precision("unknown") is None
