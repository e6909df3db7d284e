"""Reads files of named tensors that somebody else wrote; nothing in them is executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from meds.core.errors import PluginError


def read_weights(path: Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors or torch file; nothing in the file is executed.

    A torch file may hold them under "state_dict" or "model".

    Raises:
        PluginError: the file is missing, unreadable or holds something else.
    """
    path = path.expanduser()
    if not path.is_file():
        raise PluginError(f"The weights file '{path}' does not exist.")
    try:
        if path.suffix == ".safetensors":
            found: Any = safetensors.torch.load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PluginError(f"The weights file '{path}' cannot be read: {reason}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise PluginError(f"The weights file '{path}' holds no table of named tensors.")
    return dict(found)
