"""Device, precision and autocast of a run: the one place that knows about them."""

from __future__ import annotations

import os
import resource
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from joblib import cpu_count
from torch import Tensor, nn

from meds.core.allocator import freed_memory_stays
from meds.core.errors import ResourceError

Item = TypeVar("Item")
Result = TypeVar("Result")

Precision = Literal["fp32", "bf16"]


class Runtime:
    """Where and how precisely networks are computed.

    Raises ResourceError if the device is not there. On CUDA the same code runs with pinned, non-blocking transfers,
    TF32 off and deterministic kernels; the tests run on a processor unless MEDS_TEST_DEVICE names another device.
    """

    def __init__(self, device: str = "auto", precision: str = "auto", threads: int | None = None) -> None:
        # What a container, a batch system or taskset lets this process have.
        self.threads = threads or cpu_count()
        torch.set_num_threads(self.threads)
        self.device = resolve_device(device)
        if self.device.type == "cuda":
            # First, because the precision is that of the current device.
            _prepare_cuda(self.device)
        self.precision: Precision = resolve_precision(precision, self.device)

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision for a forward pass (bf16 where chosen, else nothing)."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def put(self, tensor: Tensor) -> Tensor:
        """Move a tensor to the device."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def spare_bytes(self) -> int:
        """Memory of an accelerator that stored features may take: a third of what is free. 0 on a processor."""
        if self.device.type != "cuda":
            return 0
        free, _ = torch.cuda.mem_get_info(self.device)
        # What torch keeps for itself and does not use at the moment is free as well.
        kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return (free + kept) // 3

    def training_memory(self) -> AbstractContextManager[None]:
        """Within it a training step on a processor uses again what the one before has freed."""
        return freed_memory_stays() if self.device.type == "cpu" else nullcontext()

    def place(self, module: nn.Module) -> nn.Module:
        """Move a network to the device; the memory layout is the network's own choice."""
        return module.to(self.device)

    def side_by_side(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results of `work`, in order: on a processor on several items at once, each on one thread.

        So small pieces keep all cores busy without splitting any of them, and a result does not depend on the number
        of threads. On an accelerator one item follows the other.
        """
        if self.device.type != "cpu" or self.threads == 1:
            yield from map(work, items)
            return
        try:
            with ThreadPoolExecutor(self.threads, initializer=partial(torch.set_num_threads, 1)) as pool:
                yield from pool.map(work, items)
        finally:
            # A thread's setting is also the one that threads made later begin with.
            torch.set_num_threads(self.threads)

    def in_advance(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results of `work`, in order: on an accelerator the next one is made while the caller uses the last.

        On a processor both would take the same cores, so one follows the other.
        """
        if self.device.type == "cpu":
            yield from map(work, items)
            return
        with ThreadPoolExecutor(1) as pool:
            waiting = deque[Future[Result]]()
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def describe(self) -> str:
        """A short text such as "cpu (2 threads, bf16)"."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        detail = f"{threads}, " if self.device.type == "cpu" else ""
        return f"{self.device} ({detail}{self.precision})"


def wait_for_device() -> None:
    """Return once an accelerator, if this process uses one, has done all that it was given: before a time is read."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()


def resolve_device(name: str) -> torch.device:
    """The torch device of a spec's `device`; ResourceError if it is unknown or absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ResourceError(f"`device: {name}` is unknown; use auto, cpu, cuda or cuda:N.") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ResourceError(f"`device: {name}` is not there on this machine; use `device: auto` or `cpu`.")
    if device.type not in {"cpu", "cuda"}:
        raise ResourceError(f"`device: {name}` is not supported; use auto, cpu, cuda or cuda:N.")
    return device


def resolve_precision(name: str, device: torch.device) -> Precision:
    """bf16 or fp32; `auto` takes bf16 where the hardware multiplies it natively."""
    if name in ("fp32", "bf16"):
        return name  # type: ignore[return-value]
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported() else "fp32"


def _prepare_cuda(device: torch.device) -> None:
    """Settings of the whole process, by which the same run gives the same bits."""
    if device.index is not None:
        torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    # cuBLAS reads it when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # A few kernels have no such form; a user could do nothing about it.
    warnings.filterwarnings("ignore", ".*does not have a deterministic implementation", UserWarning)
    # It would fill new memory before each use, which is for finding faults.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@dataclass
class CostMeter:
    """Wall and CPU seconds and peak memory between creation and `stop`."""

    device: torch.device
    _wall: float = field(default_factory=time.perf_counter)
    _cpu: float = field(default_factory=time.process_time)

    def __post_init__(self) -> None:
        _reset_peak_rss()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def stop(self) -> dict[str, float]:
        """{"wall_s", "cpu_s", "peak_rss_mib", "peak_gpu_mib"} so far."""
        wait_for_device()
        gpu = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0
        return {
            "wall_s": round(time.perf_counter() - self._wall, 3),
            "cpu_s": round(time.process_time() - self._cpu, 3),
            "peak_rss_mib": round(_peak_rss_bytes() / 2**20, 1),
            "peak_gpu_mib": round(gpu / 2**20, 1),
        }


def _reset_peak_rss() -> None:
    # Linux only: without it the peak is that of the whole process so far.
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_rss_bytes() -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
