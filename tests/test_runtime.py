"""Work on several items side by side, or one ahead: in order, and nothing is changed for what comes after."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator

import pytest
import torch

from meds.core.runtime import Runtime, _prepare_cuda


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


def test_a_description_names_device_threads_and_precision() -> None:
    before = torch.get_num_threads()
    try:
        assert Runtime("cpu", "bf16", 2).describe() == "cpu (2 threads, bf16)"
        assert Runtime("cpu", "fp32", 1).describe() == "cpu (1 thread, fp32)"
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("device", "made"), [("cpu", [1, 2, 3, 4]), ("cuda", [2, 3, 4, 4])])
def test_an_accelerator_is_given_the_next_item_before_the_last_is_used(device: str, made: list[int]) -> None:
    runtime = Runtime("cpu", "fp32", 1)
    runtime.device = torch.device(device)
    asked: list[int] = []

    def items() -> Iterator[int]:
        for item in range(4):
            asked.append(item)
            yield item

    found = [(result, len(asked)) for result in runtime.in_advance(lambda item: item * item, items())]
    assert [result for result, _ in found] == [0, 1, 4, 9]
    assert [number for _, number in found] == made


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_error_of_an_item_is_raised_where_the_item_is_due(device: str) -> None:
    runtime = Runtime("cpu", "fp32", 1)
    runtime.device = torch.device(device)
    results = runtime.in_advance(lambda item: 1 // item, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_each_runtime_has_its_own_precision_whatever_was_made_after_it() -> None:
    half, full = Runtime("cpu", "bf16", 1), Runtime("cpu", "fp32", 1)
    vectors = torch.rand(4, 4)
    for _ in range(2):
        with half.autocast():
            assert (vectors @ vectors).dtype == torch.bfloat16
        with full.autocast():
            assert (vectors @ vectors).dtype == torch.float32


def test_on_an_accelerator_the_half_precision_is_bf16_too() -> None:
    runtime = Runtime("cpu", "bf16", 1)
    runtime.device = torch.device("cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there may be none
        context = runtime.autocast()
    assert isinstance(context, torch.autocast)
    assert (context.device, context.fast_dtype) == ("cuda", torch.bfloat16)


def test_a_processor_spares_no_memory_for_features() -> None:
    assert Runtime("cpu", "fp32", 1).spare_bytes() == 0


@pytest.fixture
def settings_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32
    with warnings.catch_warnings():
        yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.mark.usefixtures("settings_restored")
def test_a_gpu_computes_the_same_bits_again_and_in_full_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    _prepare_cuda(torch.device("cuda"))
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.backends.cudnn.allow_tf32
    assert chosen == []  # torch takes a device with a number only
    _prepare_cuda(torch.device("cuda:1"))
    assert chosen == [torch.device("cuda:1")]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not limit a process to cores")
def test_only_cores_that_the_process_may_use_count() -> None:
    before, threads = os.sched_getaffinity(0), torch.get_num_threads()
    try:
        os.sched_setaffinity(0, {min(before)})
        assert Runtime("cpu", "fp32").threads == 1
    finally:
        os.sched_setaffinity(0, before)
        torch.set_num_threads(threads)
