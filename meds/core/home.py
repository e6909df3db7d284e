"""Where meds keeps what runs share: the artifact store and the feature cache."""

from __future__ import annotations

import math
import os
from pathlib import Path

import platformdirs

from meds.core.errors import UserError


def meds_home() -> Path:
    """MEDS_HOME, or the user's cache directory."""
    given = os.environ.get("MEDS_HOME")
    return Path(given).expanduser() if given else Path(platformdirs.user_cache_dir("meds"))


def cache_limit_bytes() -> int:
    """Largest size of the feature cache: MEDS_CACHE_GIB gibibytes, 50 by default."""
    given = number_from_environment("MEDS_CACHE_GIB")
    return int((50.0 if given is None else given) * 2**30)


def number_from_environment(name: str) -> float | None:
    """A number of at least 0 from the environment, None where it is not set or blank; UserError for anything else."""
    text = os.environ.get(name, "")
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UserError(f"The environment variable {name} is '{text}'; set it to a number of at least 0.")
    return value
