"""Training checkpoints: a state that continues to the same bits, written every few seconds or minutes."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from torch import Tensor

from meds.core import files
from meds.core.errors import ArtifactError
from meds.core.home import number_from_environment
from meds.core.store import tensor_bytes

SUFFIX = ".safetensors"
SECONDS = "MEDS_CHECKPOINT_SECONDS"
_USUAL_SECONDS = 20.0
_LARGEST_SHARE = 0.03
# File systems allow 255 bytes, with a number, a checksum and the suffix.
_LONGEST_NAME = 180


class Checkpoints:
    """The checkpoints of one training, newest wins; a damaged one is passed over.

    One is due every 20 seconds, or less often where writing a large one would take more than 3 % of the time; every so
    many seconds, whatever it takes, if MEDS_CHECKPOINT_SECONDS says so.
    """

    def __init__(self, folder: Path, name: str = "checkpoint") -> None:
        # A class may be called "bolt" and another "bolt-m6" or "m6/bolt": quoted, each is one file name of its own.
        quoted = quote(name, safe=" ")
        short = quoted[:_LONGEST_NAME] + files.sha256(name.encode())[:16]
        self.folder, self.name = folder, quoted if len(quoted) <= _LONGEST_NAME else short
        given = number_from_environment(SECONDS)
        self.interval = _USUAL_SECONDS if given is None else given
        self._share = _LARGEST_SHARE if given is None else math.inf
        self._last, self._took = time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether enough time has passed since the last save."""
        return time.monotonic() - self._last >= max(self.interval, self._took / self._share)

    def save(self, position: int, state: Mapping[str, Tensor]) -> None:
        """Write the state at a position and drop older checkpoints."""
        start = time.monotonic()
        path = files.write_named_by_checksum(self.folder, f"{self.name}-{position:09d}", SUFFIX, tensor_bytes(state))
        for other in self._all():
            if other != path:
                other.unlink(missing_ok=True)
        self._last = time.monotonic()
        self._took = self._last - start

    def load(self) -> dict[str, Tensor] | None:
        """The newest whole state, None if there is none."""
        from safetensors.torch import load_file

        for path in sorted(self._all(), reverse=True):
            try:
                files.verify_named_by_checksum(path, SUFFIX)
            except ArtifactError:
                path.unlink()
                continue
            return dict(load_file(path))
        return None

    def _all(self) -> Iterable[Path]:
        own = re.compile(rf"{re.escape(self.name)}-\d{{9}}\.[0-9a-f]+{re.escape(SUFFIX)}")
        return [path for path in self.folder.glob(f"*{SUFFIX}") if own.fullmatch(path.name)]
