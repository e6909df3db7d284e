"""Independent seeds for every random choice, derived from the run's seed and a label."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def derive_seed(seed: int, *labels: object) -> int:
    """A 63-bit seed that depends on the run's seed and the labels, and on nothing else."""
    text = "\x1f".join(str(part) for part in (seed, *labels))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextmanager
def undisturbed_randomness() -> Iterator[None]:
    """Whatever draws from the global generators of Python, NumPy and torch within, they go on as if nothing had."""
    # What has not been imported has nothing to disturb.
    numpy, torch = (sys.modules.get(name) for name in ("numpy", "torch"))
    own = random.getstate()
    drawn = numpy.random.get_state() if numpy else None
    host = torch.get_rng_state() if torch else None
    devices = torch.cuda.get_rng_state_all() if torch and torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(own)
        if numpy:
            numpy.random.set_state(drawn)
        if torch:
            torch.set_rng_state(host)
        if torch and devices:
            torch.cuda.set_rng_state_all(devices)
