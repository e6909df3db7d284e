"""Reverse Distillation against recorded numbers of the published network, and its behaviour on odd input."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from meds.core.backbone import Backbone, Layer, Preprocessing
from meds.core.errors import PluginError
from meds.core.student import Progress
from meds.plugins.students.rd import RDOptions, meds_students
from meds.plugins.students.rd_network import ReverseDistillation, from_official

GOLDEN = Path(__file__).parent / "golden"
START = Progress(0, 1)


class FakeBackbone(Backbone):
    """Only what `layers_needed` looks at."""

    def __init__(self, layers: list[Layer], family: str = "cnn", size: int = 64) -> None:
        self.name = "fake"
        self.family = family
        self.preprocessing = Preprocessing(size, size)
        self.layers = tuple(layers)

    def to(self, device: torch.device) -> None:
        raise NotImplementedError

    def forward(self, images, layers):
        raise NotImplementedError


def read(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(GOLDEN / name, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata())  # noqa: SIM118


def layers_of(features: list[Tensor]) -> list[Layer]:
    return [Layer(f"stage{i}", *value.shape[1:]) for i, value in enumerate(features)]


def student_for(features: list[Tensor], **options) -> ReverseDistillation:
    return ReverseDistillation(RDOptions(**options), layers_of(features), ["a"])


def random_features(channels, grids, batch=2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, c, g, g, generator=generator) for c, g in zip(channels, grids, strict=True)]


def run(student: ReverseDistillation, features: list[Tensor]) -> list[Tensor]:
    return student(features, torch.zeros(len(features[0]), dtype=torch.int64))


def summed_map(features: list[Tensor], outputs: list[Tensor], side: int) -> Tensor:
    total = 0
    for feature, output in zip(features, outputs, strict=True):
        distance = (1 - F.cosine_similarity(feature, output)).unsqueeze(1)
        total = total + F.interpolate(distance, size=side, mode="bilinear", align_corners=True).double()
    return total


def close(actual: Tensor, expected: Tensor, relative: float = 1e-4, absolute: float = 1e-5) -> None:
    torch.testing.assert_close(actual.to(expected.dtype), expected, rtol=relative, atol=absolute)


def near_largest(actual: Tensor, expected: Tensor, fraction: float) -> None:
    limit = fraction * max(float(expected.abs().max()), 1e-6)
    assert float((actual.double() - expected.double()).abs().max()) <= limit


class TestWideResNet50:
    """The published network at its real size."""

    @staticmethod
    def filled(names: str, shift: float) -> dict[str, Tensor]:
        state = {}
        for index, line in enumerate(names.splitlines()):
            name, shape_text = re.fullmatch(r"(\S+) \((.*)\)", line).groups()
            shape = [int(part) for part in shape_text.split(",") if part.strip()]
            if not shape:
                state[name] = torch.tensor(0)
                continue
            flat = np.arange(math.prod(shape), dtype=np.float64)
            flat *= 0.6180339887498949
            flat += index + shift
            np.sin(flat, out=flat)
            if len(shape) == 4:
                flat *= math.sqrt(2 / math.prod(shape[1:])) * math.sqrt(2)
            elif name.endswith(("weight", "running_var")):
                flat = 1 + 0.1 * flat
            else:
                flat *= 0.1
            state[name] = torch.from_numpy(flat.astype(np.float32)).reshape(shape)
        return state

    def test_evaluation_parity(self) -> None:
        tensors, metadata = read("rd_wrn50.safetensors")
        features = [tensors[f"input.feature_{i}"] for i in range(3)]
        # Without the start values (92 million random numbers), which are replaced at once.
        with torch.device("meta"):
            student = student_for(features).eval()
        state = from_official(
            self.filled(metadata["names_bottleneck"], 0.0), self.filled(metadata["names_decoder"], 0.5)
        )
        student.load_state_dict(state, assign=True)
        with torch.inference_mode():
            embedding = student.bottleneck(features)
            outputs = run(student, features)
            loss = student.loss(student.targets(features), outputs, START)
        near_largest(embedding, tensors["output.ocbe"], 1e-3)
        for i, output in enumerate(outputs):
            near_largest(output, tensors[f"output.decoder_{i}"], 1e-3)
        close(loss, tensors["loss.cosine_sum"][0], 1e-3)
        score_map = summed_map(features, outputs, 64)
        close(score_map, tensors["output.map_sum"].double(), 1e-3)
        smoothed = np.stack([gaussian_filter(image, 4) for image in score_map[:, 0].numpy()])
        close(torch.from_numpy(smoothed), tensors["output.map_smoothed_sigma4"].double(), 1e-3)
        close(torch.from_numpy(smoothed.max((1, 2))), tensors["output.image_score"].double(), 1e-3)


class Detail:
    """The recorded small case: inputs, official state and our names of it."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.tensors, self.metadata = read("rd_detail.safetensors")
        self.features = [self.tensors[f"input.feature.{i}"].to(dtype) for i in range(3)]
        self.student = student_for(self.features).to(dtype)
        state = self.part("state.")
        self.student.load_state_dict(state)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The recorded official entries under a prefix, by our names."""
        bottleneck, decoder = (
            {k.removeprefix(prefix + p): v for k, v in self.tensors.items() if k.startswith(prefix + p)}
            for p in ("bn.", "decoder.")
        )
        return from_official(bottleneck, decoder)

    def step(self, optimiser: torch.optim.Optimizer) -> float:
        targets = self.student.targets(self.features)
        loss = self.student.loss(targets, run(self.student, self.features), START)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    def three_steps(self) -> list[float]:
        self.student.train()
        optimiser = self.student.training_defaults().optimiser(self.student.parameters())
        return [self.step(optimiser) for _ in range(3)]


class TestDetail:
    # In float32 the order of summation alone moves single entries by 1.4e-5 where the largest is 12.
    @pytest.mark.parametrize(("dtype", "absolute"), [(torch.float32, 3e-5), (torch.float64, 1e-5)])
    def test_evaluation_mode(self, dtype, absolute) -> None:
        case = Detail(dtype)
        student, recorded = case.student.eval(), case.tensors
        with torch.inference_mode():
            close(student.bottleneck(case.features), recorded["output.eval.embedding"])
            outputs = run(student, case.features)
            loss = student.loss(student.targets(case.features), outputs, START)
        close(loss, recorded["loss.eval.cosine"][0])
        for i, output in enumerate(outputs):
            close(output, recorded[f"output.eval.decoder.{i}"], absolute=absolute)
            close(1 - F.cosine_similarity(case.features[i], output), recorded[f"output.eval.distance.{i}"])
        score_map = summed_map(case.features, outputs, 96)[:, 0]
        close(score_map.float(), recorded["output.eval.map"])
        smoothed = np.stack([gaussian_filter(image, 4) for image in score_map.numpy()])
        close(torch.from_numpy(smoothed).float(), recorded["output.eval.map_smoothed"])
        close(torch.from_numpy(smoothed.max((1, 2))), recorded["output.eval.image_score"])

    def test_training_mode(self) -> None:
        case = Detail()
        outputs = run(case.student.train(), case.features)
        loss = case.student.loss(case.student.targets(case.features), outputs, START)
        loss.backward()
        close(loss.detach(), case.tensors["loss.train.cosine"][0])
        for i, output in enumerate(outputs):
            close(output.detach(), case.tensors[f"output.train.decoder.{i}"])
        gradients = {name: parameter.grad for name, parameter in case.student.named_parameters()}
        for name, expected in case.part("grad.train.").items():
            near_largest(gradients[name], expected, 1e-3)
        norms = dict(
            zip(
                json.loads(case.metadata["parameter_order"]),
                case.tensors["grad_norm_each.train"],
                strict=True,
            )
        )
        ours = from_official(
            {k.removeprefix("bn."): v for k, v in norms.items() if k.startswith("bn.")},
            {k.removeprefix("decoder."): v for k, v in norms.items() if k.startswith("decoder.")},
        )
        assert set(ours) == set(gradients)
        for name, expected in ours.items():
            assert float(gradients[name].double().norm()) == pytest.approx(float(expected), rel=1e-3)
        state = case.student.state_dict()
        for name, expected in case.part("steps.buffers_after_1.").items():
            close(state[name], expected)

    def test_three_steps_in_float32(self) -> None:
        case = Detail()
        losses = case.three_steps()
        np.testing.assert_allclose(losses, case.tensors["steps.loss"].numpy(), rtol=1e-4)
        order = json.loads(case.metadata["parameter_order"])
        gaps = dict(zip(order, case.tensors["steps.fp32_error_each"].tolist(), strict=True))
        state = case.student.state_dict()
        for name, expected in case.part("steps.state_after_3.").items():
            allowed = 10 * gaps.get(name, max(gaps.values()))
            difference = (state[name].double() - expected.double()).abs().max()
            assert float(difference) <= max(allowed, 10 * max(gaps.values()), 1e-5), name

    def test_three_steps_in_float64(self) -> None:
        case = Detail(torch.float64)
        losses = case.three_steps()
        np.testing.assert_allclose(losses, case.tensors["steps64.loss"].numpy(), rtol=1e-6)
        state = case.student.state_dict()
        recorded = case.part("steps64.state_after_3.")
        assert set(recorded) == set(state)
        for name, expected in recorded.items():
            near_largest(state[name], expected.reshape(state[name].shape), 1e-6)


@pytest.mark.parametrize("grids", [(57, 29, 15), (57, 28, 14), (10, 5, 2), (8, 4, 2), (4, 2, 1)])
def test_shapes_follow_the_teacher(grids) -> None:
    features = random_features((6, 10, 14), grids)
    student = student_for(features, blocks=(1, 2, 1), bottleneck_blocks=1)
    outputs = run(student.train(), features)
    assert [o.shape for o in outputs] == [f.shape for f in features]
    loss = student.loss(student.targets(features), outputs, START)
    loss.backward()
    assert loss.shape == ()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in student.parameters())


def test_one_image_can_be_trained_on_unless_its_embedding_is_one_position() -> None:
    student = student_for(random_features((4, 6, 8), (16, 8, 4)), blocks=(1, 1, 1)).train()
    run(student, random_features((4, 6, 8), (16, 8, 4), batch=1))
    tiny = random_features((4, 6, 8), (8, 4, 2), batch=1)
    with pytest.raises(PluginError, match="larger image_size or batch_size"):
        run(student, tiny)
    run(student.eval(), tiny)


def test_targets_are_detached_and_float32() -> None:
    features = [value.bfloat16().requires_grad_() for value in random_features((4, 6, 8), (16, 8, 4))]
    targets = student_for(features, blocks=(1, 1, 1)).targets(features)
    assert [(t.dtype, t.requires_grad) for t in targets] == [(torch.float32, False)] * 3


def test_autocast_keeps_the_loss_in_float32() -> None:
    features = random_features((8, 16, 32), (16, 8, 4), batch=4)
    student = student_for(features, blocks=(1, 1, 1)).train()
    expected = student.loss(student.targets(features), run(student, features), START)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = run(student, [value.bfloat16() for value in features])
        loss = student.loss(student.targets(features), outputs, START)
    loss.backward()
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=0.02)
    assert all(p.grad.dtype == torch.float32 for p in student.parameters())


def test_loss_is_zero_for_perfect_and_six_for_opposite_maps() -> None:
    features = random_features((4, 6, 8), (16, 8, 4))
    student = student_for(features, blocks=(1, 1, 1))
    assert float(student.loss(features, features, START)) == pytest.approx(0, abs=1e-6)
    assert float(student.loss(features, [-f for f in features], START)) == pytest.approx(6, abs=1e-6)


def test_start_values() -> None:
    features = random_features((64, 128, 256), (16, 8, 4))
    torch.manual_seed(3)
    student = student_for(features)
    torch.manual_seed(3)
    again = student_for(features)
    for name, value in student.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    convolution = student.bottleneck.fuse_middle[0].weight
    assert float(convolution.detach().std()) == pytest.approx(math.sqrt(2 / (256 * 9)), rel=0.02)
    up = student.decoder.stages[0][0].conv2.weight
    assert float(up.detach().abs().max()) <= 1 / math.sqrt(up.shape[1] * 4)


def pyramid(size: int = 64) -> list[Layer]:
    return [Layer(f"stride{s}", 8, -(-size // s), -(-size // s)) for s in (2, 4, 8, 16, 32)]


class TestLayersNeeded:
    def needed(self, backbone: Backbone, **options) -> tuple[str, ...]:
        return ReverseDistillation.layers_needed(RDOptions(**options), backbone)

    @pytest.mark.parametrize("size", [64, 226])
    def test_default_is_strides_4_8_16(self, size) -> None:
        assert self.needed(FakeBackbone(pyramid(size), size=size)) == ("stride4", "stride8", "stride16")

    def test_last_layer_of_a_grid_is_taken(self) -> None:
        layers = [*pyramid()[:3], Layer("deeper8", 9, 8, 8), *pyramid()[3:]]
        assert self.needed(FakeBackbone(layers)) == ("stride4", "deeper8", "stride16")

    def test_chosen_layers(self) -> None:
        chosen = ["stride8", "stride16", "stride32"]
        assert self.needed(FakeBackbone(pyramid()), layers=chosen) == tuple(chosen)

    @pytest.mark.parametrize(
        ("layers", "message"),
        [
            (["stride4", "stride8"], "exactly three"),
            (["stride4", "stride8", "strid16"], "did you mean 'stride16'"),
            (["stride2", "stride8", "stride16"], "halve the grid"),
        ],
    )
    def test_wrong_choices(self, layers, message) -> None:
        with pytest.raises(PluginError, match=message):
            self.needed(FakeBackbone(pyramid()), layers=layers)

    def test_vit_and_short_pyramids_are_refused(self) -> None:
        with pytest.raises(PluginError, match="is a VIT"):
            self.needed(FakeBackbone(pyramid(), family="vit"))
        with pytest.raises(PluginError, match="none at stride 4"):
            self.needed(FakeBackbone(pyramid()[2:]))


def test_defaults_are_the_published_ones() -> None:
    student = student_for(random_features((4, 6, 8), (16, 8, 4)), blocks=(1, 1, 1))
    training, evaluation = student.training_defaults(), student.evaluation_defaults()
    optimiser = training.optimiser(student.parameters())
    assert isinstance(optimiser, torch.optim.Adam)
    assert (optimiser.defaults["lr"], optimiser.defaults["betas"]) == (0.005, (0.5, 0.999))
    assert optimiser.defaults["weight_decay"] == 0
    assert (training.batch_size, training.epochs, training.iterations) == (16, 200, None)
    assert training.learning_rate(0, 10) == training.learning_rate(9, 10) == 0.005
    assert (evaluation.map_size, evaluation.sigma, evaluation.image_score) == (256, 4.0, "max")


def test_registration_and_options() -> None:
    (plugin,) = meds_students()
    assert (plugin.name, plugin.options) == ("rd", RDOptions)
    with pytest.raises(ValidationError):
        RDOptions(blocks=(0, 4, 6))
    with pytest.raises(PluginError, match="no entry of an RD4AD"):
        from_official({}, {"layer4.0.conv1.weight": torch.zeros(1)})


def test_a_published_checkpoint_is_loaded(tmp_path: Path) -> None:
    case = Detail()
    parts: dict[str, dict[str, Tensor]] = {"bn": {}, "decoder": {}}
    for name, value in case.tensors.items():
        if name.startswith("state."):
            head, _, rest = name.removeprefix("state.").partition(".")
            parts[head][rest] = value.reshape(()) if rest.endswith("num_batches_tracked") else value
    torch.save(parts, tmp_path / "wres50_bottle.pth")
    student = student_for(case.features, weights=tmp_path / "wres50_bottle.pth")
    for name, value in case.student.state_dict().items():
        assert torch.equal(student.state_dict()[name], value)
    torch.save({"bn": parts["bn"]}, tmp_path / "half.pth")
    with pytest.raises(PluginError, match=r"half.pth' is no RD4AD checkpoint: it needs the tables 'bn' and 'decoder'"):
        student_for(case.features, weights=tmp_path / "half.pth")
    with pytest.raises(PluginError, match=r"wres50_bottle.pth' does not fit the model: '.*' has shape"):
        student_for(random_features([4, 8, 16], [24, 12, 6]), weights=tmp_path / "wres50_bottle.pth")
