"""Reads files of named tensors that somebody else wrote (nothing in them is executed), and fingerprints weights."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from meds.core.backbone import Preprocessing
from meds.core.errors import PluginError, first_line


def read_weights(path: Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors or torch file; nothing in the file is executed.

    A torch file may hold them under "state_dict" or "model", beside numbers and settings (numpy's and easydict's too);
    tables within it get their names joined by dots.

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
            found = _torch_file(path)
    except UnpicklingError as error:
        raise PluginError(_more_than_tensors(path, error)) from error
    except Exception as error:
        raise PluginError(f"The weights file '{path}' cannot be read: {first_line(error)}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if isinstance(found, Mapping):
        found = _flat(found)
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise PluginError(f"The weights file '{path}' holds no table of named tensors.")
    return dict(found)


def _torch_file(path: Path) -> Any:
    # Numbers and tables of these libraries lie beside the tensors in published checkpoints; they are read as data.
    number: Any = np.float64(0).__reduce__()[0]
    known = [(number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    kinds = [np.dtype, np.dtypes.Float32DType, np.dtypes.Float64DType, np.dtypes.Int64DType]
    with torch.serialization.safe_globals([*known, *kinds, (OrderedDict, "easydict.EasyDict")]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _more_than_tensors(path: Path, error: Exception) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found is None:
        return f"The weights file '{path}' cannot be read: it is damaged or no torch file."
    return (
        f"The weights file '{path}' holds an object ({found[1]}) that is not opened, because that could run a program: "
        "save the tensors alone, as with torch.save(model.state_dict(), FILE)."
    )


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """Tables inside a table, such as those of a bottleneck and a decoder, with their names joined by dots."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": tensor for inner, tensor in value.items()}
        else:
            flat[name] = value
    return flat


def load_checked(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict whose names and shapes must be the module's own; `source` begins the sentence otherwise.

    Raises:
        PluginError: entries are missing, unexpected or of another shape; the first three are named.
    """
    wanted = module.state_dict()
    problems = [f"'{name}' is missing" for name in wanted if name not in state]
    problems += [f"'{name}' is unexpected" for name in state if name not in wanted]
    problems += [
        f"'{name}' has shape {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise PluginError(f"{source} does not fit the model: {', '.join(problems[:3])}{more}.")
    module.load_state_dict(dict(state))


def load_file(module: nn.Module, path: Path, convert: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]) -> None:
    """Load a file into a module after its names and tensors have been converted to the module's own.

    Raises:
        PluginError: the file cannot be read or does not fit.
    """
    load_checked(module, convert(read_weights(path)), f"The weights file '{path}'")


def backbone_fingerprint(architecture: str, model: nn.Module, preprocessing: Preprocessing) -> str:
    """sha256 (hex) over the architecture's name, every entry of the state dict, and the preprocessing."""
    digest = hashlib.sha256()
    digest.update(repr((architecture, sorted(asdict(preprocessing).items()))).encode())
    for name, value in model.state_dict().items():
        digest.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(memoryview(data.numpy()))
    return digest.hexdigest()
