"""Reads checkpoints of the authors' HVQ-Trans code into the student `hvq`."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# The frozen encoder, and a layer that the published network creates but never uses.
_UNUSED = ("enc.", "input_proj.")
_RENAMED = {
    "quantize_conv_t.": "project.",
    "pos_embed.row_embed.weight": "position.rows",
    "pos_embed.col_embed.weight": "position.columns",
    "output_proj_list.": "heads.",
}
_BUFFERS = {"embed": "codes", "cluster_size": "counts", "embed_avg": "sums"}
_CODEBOOK = re.compile(r"quantize_list_(\d+)\.(\d+)\.(embed|cluster_size|embed_avg)")


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn a state dict of the authors' network into one for the student; unknown names stay as they are.

    Their list n of codebooks [width, codes] quantises encoder layer n - 1, the last list the top layer; here the
    top layer's codebooks are one tensor and all others another, from deep to raw and class by class.
    """
    renamed: dict[str, Tensor] = {}
    books: dict[str, dict[tuple[int, int], Tensor]] = {}
    for full_name, value in state.items():
        # Left over from torch's wrapper for several devices.
        name = full_name.removeprefix("module.")
        match = _CODEBOOK.fullmatch(name)
        if match is not None:
            books.setdefault(_BUFFERS[match[3]], {})[int(match[1]), int(match[2])] = value.movedim(0, -1)
        elif not name.startswith(_UNUSED):
            prefix = next((old for old in _RENAMED if name.startswith(old)), "")
            renamed[_RENAMED.get(prefix, "") + name.removeprefix(prefix)] = value
    for buffer, found in books.items():
        renamed |= _stacked(buffer, found)
    return renamed


def _stacked(buffer: str, found: Mapping[tuple[int, int], Tensor]) -> dict[str, Tensor]:
    top = max(number for number, _ in found)
    groups = {
        f"top.{buffer}": sorted(key for key in found if key[0] == top),
        f"lower.{buffer}": sorted((key for key in found if key[0] != top), key=lambda key: (-key[0], key[1])),
    }
    result = {}
    for name, keys in groups.items():
        shapes = {found[key].shape for key in keys}
        # Tables of different sizes are no such checkpoint; the caller then finds the name missing.
        if len(shapes) == 1:
            result[name] = torch.stack([found[key] for key in keys]).contiguous()
    return result
