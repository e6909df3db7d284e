"""What is the same around every use of anomalib: silence, one seed for all generators, and a Ctrl-C that works."""

from __future__ import annotations

import logging
import random
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

NOISY_LOGGERS = (
    "anomalib",
    "lightning",
    "lightning.fabric",
    "lightning.pytorch",
    "lightning_fabric",
    "pytorch_lightning",
    "timm",
)


@contextmanager
def one_seed() -> Iterator[None]:
    """Let Python's and NumPy's global generators follow torch's, which meds seeds; PatchCore draws from NumPy's."""
    python, numpy = random.getstate(), np.random.get_state()
    seed = int(torch.randint(2**31, ()))
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C through: Lightning would turn it into an exit with code 1 and ignore any further one."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        interrupt = stop.__context__
        if not isinstance(interrupt, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, before)
        raise interrupt from None


@contextmanager
def quiet() -> Iterator[None]:
    """Silence anomalib's and Lightning's messages, which speak of things that a meds run has no use for."""
    loggers = [logging.getLogger(name) for name in NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
