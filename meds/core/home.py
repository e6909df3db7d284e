"""Where meds keeps what runs share: the artifact store and the feature cache."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def meds_home() -> Path:
    """MEDS_HOME, or the user's cache directory."""
    given = os.environ.get("MEDS_HOME")
    return Path(given).expanduser() if given else Path(platformdirs.user_cache_dir("meds"))


def cache_limit_bytes() -> int:
    """Largest size of the feature cache: MEDS_CACHE_GIB gibibytes, 50 by default."""
    return int(float(os.environ.get("MEDS_CACHE_GIB", "50")) * 2**30)
