"""Dinomaly against recorded numbers of the published code, and its behaviour on other encoders and odd input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformer_cases import (
    FakeBackbone,
    Recorded,
    check_first_iterations,
    check_groups,
    check_maps,
    check_parts,
    check_steps32,
    check_steps64,
    close,
    fake_vit,
)

from meds.core.backbone import Layer
from meds.core.errors import PluginError
from meds.core.scoring import patch_distance
from meds.core.student import Progress
from meds.plugins.students import transformer_layers
from meds.plugins.students.dinomaly import DinomalyOptions, meds_students
from meds.plugins.students.dinomaly_network import Dinomaly, LinearAttention, mining_weights
from meds.plugins.students.learning_rates import warm_cosine
from meds.plugins.students.teacher_groups import Projection, block_groups
from meds.plugins.students.transformer_layers import group_outputs, in_pieces

PUBLISHED = {"heads": 4, "attention_epsilon": 0.0, "dropout": 0.0}


def recorded(dtype: torch.dtype = torch.float32, **options) -> Recorded:
    return Recorded("dinomaly_detail.safetensors", Dinomaly, DinomalyOptions(**PUBLISHED | options), dtype)


@pytest.fixture
def case() -> Recorded:
    return recorded()


def test_teacher_and_student_groups(case: Recorded) -> None:
    check_groups(case, 3e-6)


def test_every_step_of_the_network(case: Recorded) -> None:
    blocks = {f"decoder_block.{i}": case.student.decoder[i] for i in (0, 7)}
    check_parts(case, {"bottleneck": case.student.bottleneck[0], **blocks}, 3e-6)


@pytest.mark.parametrize("size", ["input", 96, 256])
def test_maps_and_image_scores(case: Recorded, size) -> None:
    evaluation = case.student.evaluation_defaults()
    assert (evaluation.resize, evaluation.map_size, evaluation.mask_rule) == (140, 256, "any")
    check_maps(case, size)


@pytest.mark.parametrize("rate", [0.0, 0.45, 0.9])
def test_hard_mining_marks_the_same_patches(case: Recorded, rate: float) -> None:
    count = int(case.tensors[f"mining.k.p{rate}"])
    assert count == int(200 * (1 - rate))
    with torch.inference_mode():
        for i, (target, output) in enumerate(zip(*case.run(), strict=True)):
            easy = case.tensors[f"mining.easy.p{rate}.{i}"].bool()
            for distances in (case.tensors[f"output.distance.{i}"], patch_distance(target, output)):
                assert torch.equal(mining_weights(distances[:, None], rate, 0.1) < 1, easy)
                close(distances.flatten().topk(count).values[-1:], case.tensors[f"mining.threshold.p{rate}.{i}"], 1e-5)
        loss = case.loss(round(1000 * rate / 0.9))
    assert loss.item() == pytest.approx(case.tensors["loss.global_cosine"].item(), rel=1e-6)


def test_no_patch_is_easy_at_the_first_iteration(case: Recorded) -> None:
    targets, outputs = case.run()
    for output in outputs:
        output.retain_grad()
    case.student.loss(targets, outputs, Progress(0, 10_000)).backward()
    for i, output in enumerate(outputs):
        close(output.grad, case.tensors[f"mining.grad_group.unscaled.{i}"], 1e-5)


def test_gradients_with_hard_mining(case: Recorded) -> None:
    targets, outputs = case.run()
    for output in outputs:
        output.retain_grad()
    case.student.loss(targets, outputs, Progress(5000, 10_000)).backward()
    for i, output in enumerate(outputs):
        close(output.grad, case.tensors[f"mining.grad_group.p0.9.{i}"], 1e-5)
    gradients = dict(case.student.named_parameters())
    for name, wanted in case.below("grad.hard_mining_p0.9.").items():
        close(gradients[name].grad, wanted, 1e-4)
    norms = torch.stack([p.grad.norm() for p in case.parameters()])
    close(norms, case.tensors["grad_norm_each.hard_mining_p0.9"], 1e-5)


def test_three_steps_in_float64() -> None:
    check_steps64(recorded(torch.float64), [1000] * 3, 2e-3)


def test_three_steps_in_float32(case: Recorded) -> None:
    before = [p.detach().clone() for p in case.parameters()]
    check_steps32(case, [1000] * 3, 2e-3)
    moved = [(p - b).norm().item() for p, b in zip(case.parameters(), before, strict=True)]
    assert moved == pytest.approx(case.tensors["steps.delta_norm_each"].tolist(), rel=1e-2)


def test_the_first_iterations_of_the_published_loop(case: Recorded) -> None:
    check_first_iterations(case)


def test_learning_rates(case: Recorded) -> None:
    rate = case.student.training_defaults().learning_rate
    assert [rate(i, 1000) for i in range(301)] == pytest.approx(case.tensors["schedule.lr_0_300"].tolist())
    assert [rate(i, 1000) for i in range(995, 1005)] == pytest.approx(case.tensors["schedule.lr_995_1004"].tolist())


@pytest.mark.parametrize("total", [1, 2, 3, 8, 40])
def test_short_trainings_have_a_short_rise(total: int) -> None:
    rates = [warm_cosine(i, total, 1.0, 0.1, 100) for i in range(total)]
    assert max(rates) == 1.0
    assert rates.index(max(rates)) <= total // 4
    assert all(0 <= rate <= 1 for rate in rates)


def test_dropout_acts_on_input_hidden_and_output(case: Recorded) -> None:
    masks = iter([case.tensors[f"dropout.kept.on_{place}"] / 0.8 for place in ("input", "hidden", "output")])

    class Kept(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return values * next(masks)

    bottleneck = case.student.bottleneck[0]
    bottleneck.dropout = Kept()
    close(bottleneck(case.tensors["dropout.input"]), case.tensors["dropout.output"], 1e-5)
    assert next(masks, None) is None
    fresh = recorded(dropout=0.2).student
    assert fresh.bottleneck[0].dropout.p == 0.2
    assert {m.p for m in fresh.decoder.modules() if isinstance(m, nn.Dropout)} == {0.0}


def test_published_training() -> None:
    layers = [Layer("block2", 64, 4, 4), Layer("block3", 64, 4, 4)]
    student = Dinomaly(DinomalyOptions(), layers, ["a"])
    defaults = student.training_defaults()
    assert (defaults.batch_size, defaults.iterations, defaults.epochs) == (16, 5_000, None)
    both = Dinomaly(DinomalyOptions(), layers, ["a", "b"])
    assert both.training_defaults().iterations == 10_000
    assert (defaults.clip_norm, defaults.drop_last) == (0.1, True)
    group = defaults.optimiser(student.parameters()).param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (2e-3, (0.9, 0.999), 1e-10)
    assert (group["weight_decay"], group["amsgrad"], group["clip_threshold"]) == (1e-4, True, 1.0)
    assert DinomalyOptions().discard_rate == 0.9
    assert meds_students()[0].selecting == {"discard_rate": 0.5}


@pytest.mark.parametrize("epsilon", [0.0, DinomalyOptions().attention_epsilon])
def test_epsilon_prevents_nan_where_queries_and_keys_vanish(epsilon: float) -> None:
    attention = LinearAttention(8, 2, epsilon)
    with torch.no_grad():
        attention.qkv.bias[:16] = -200.0  # elu + 1 of it is 0, so that the denominator is the epsilon alone
    result = attention(torch.randn(1, 3, 8))
    result.sum().backward()
    finite = torch.isfinite(result).all() and all(torch.isfinite(p.grad).all() for p in attention.parameters())
    assert bool(finite) == (epsilon > 0)


def test_start_values() -> None:
    student = Dinomaly(DinomalyOptions(), [Layer("block2+block3", 128, 4, 4), Layer("block6+block7", 128, 4, 4)], ["a"])
    for module in student.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.abs().max() <= 0.03
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.1)
            assert not module.bias.any()


def test_parameter_count_of_the_published_size() -> None:
    with torch.device("meta"):
        layers = [Layer("block2+block3+block4+block5", 768, 28, 28), Layer("block6+block7+block8+block9", 768, 28, 28)]
        student = Dinomaly(DinomalyOptions(), layers, ["a"])
    assert student.heads == 12
    assert sum(p.numel() for p in student.parameters()) == 61_425_408


def test_groups_of_vits() -> None:
    options = DinomalyOptions()
    assert block_groups(12) == [[f"block{i}" for i in range(2, 6)], [f"block{i}" for i in range(6, 10)]]
    assert block_groups(24) == [[f"block{i}" for i in (4, 6, 8, 10)], [f"block{i}" for i in (12, 14, 16, 18)]]
    names = Dinomaly.layers_needed(options, fake_vit())
    assert names == (
        "block2+block3+block4+block5",
        "block6+block7+block8+block9",
        "prefix2+prefix3+prefix4+prefix5",
        "prefix6+prefix7+prefix8+prefix9",
    )
    assert Dinomaly.layers_needed(options, fake_vit(prefix=0)) == names[:2]


@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_unequal_groups_and_odd_grids(tokens: int) -> None:
    options = DinomalyOptions(layers=[["block1"], ["block2", "block3"]], depth=4, heads=2)
    backbone = fake_vit(6, 32, prefix=tokens)
    names = Dinomaly.layers_needed(options, backbone)
    shapes = [(32, 1, tokens) if name.startswith("prefix") else (32, 3, 5) for name in names]
    student = Dinomaly(options, [Layer(n, *s) for n, s in zip(names, shapes, strict=True)], ["a"])
    features = [torch.randn(1, *shape) for shape in shapes]
    torch.testing.assert_close(student.fused(features[:2]), (features[0] + 2 * features[1]) / 3)
    outputs = student(features, torch.zeros(1, dtype=torch.int64))
    assert [o.shape for o in outputs] == [(1, 32, 3, 5)] * 2


@pytest.mark.parametrize(("taps", "depth", "shares"), [((1, 3), 4, (1, 3)), ((1, 3), 8, (4, 4)), ((4, 4), 8, (4, 4))])
def test_each_group_takes_as_many_decoder_blocks_as_layers(taps, depth, shares) -> None:
    blocks = [torch.full((1, 1, 1), float(i)) for i in range(depth)]
    first, second = (group.item() for group in group_outputs(blocks, taps))
    assert first == sum(range(depth - shares[0], depth)) / shares[0]
    assert second == sum(range(shares[1])) / shares[1]


@pytest.mark.parametrize("count", range(2, 49))
def test_vits_of_other_depths(count: int) -> None:
    groups = block_groups(count)
    blocks = [int(name.removeprefix("block")) for group in groups for name in group]
    assert len(groups) == 2
    assert all(groups)
    assert blocks == sorted(set(blocks))
    assert blocks[-1] < count
    assert len(blocks) == 8 or count < 12


CNN = [
    Layer(f"stride{s}", c, 112 * 2 // s, 112 * 2 // s, signed=True) for s, c in ((4, 24), (8, 40), (16, 112), (32, 320))
]


def test_on_a_cnn() -> None:
    options = DinomalyOptions(width=64, depth=4)
    backbone = FakeBackbone(CNN, "cnn", 224)
    names = Dinomaly.layers_needed(options, backbone)
    assert names == ("stride8@14", "stride16@14")
    student = Dinomaly(options, [backbone.layer(name) for name in names], ["a"])
    features = [torch.randn(2, 40, 14, 14), 100 * torch.randn(2, 112, 14, 14)]
    targets = student.targets(features)
    assert [t.shape for t in targets] == [(2, 64, 14, 14)] * 2
    assert [round(t.square().mean().item() * 64 / c, 1) for t, c in zip(targets, (40, 64), strict=True)] == [1.0, 1.0]
    loss = student.loss(targets, student(features, torch.zeros(2, dtype=torch.int64)), Progress(0, 10))
    loss.backward()
    assert all(p.grad is not None for p in student.parameters())


def test_a_cnn_without_stride_16_gives_its_two_last_maps() -> None:
    assert Dinomaly.layers_needed(DinomalyOptions(), FakeBackbone(CNN[:2], "cnn", 224)) == ("stride4@28", "stride8@28")


def test_a_projection_keeps_angles_and_never_changes() -> None:
    torch.manual_seed(1)
    first = Projection([40, 300], 64)
    torch.manual_seed(2)
    again = Projection([40, 300], 64)
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), again.buffers(), strict=True))
    maps = [torch.randn(2, 40, 3, 3), torch.randn(2, 300, 3, 3)]
    small, large = first(maps)
    torch.testing.assert_close(
        torch.cosine_similarity(small[0], small[1], dim=0), torch.cosine_similarity(maps[0][0], maps[0][1], dim=0)
    )
    assert large.shape == (2, 64, 3, 3)


@pytest.mark.parametrize(
    ("options", "backbone", "sentence"),
    [
        ({"depth": 7}, fake_vit(), "cannot share 7 decoder blocks among 2 groups"),
        ({"layers": []}, fake_vit(), "cannot share 8 decoder blocks among 0 groups"),
        ({}, FakeBackbone(CNN[:1], "cnn", 224), "needs two maps, but the backbone 'fake' at 224 pixels has only 1"),
        ({"grid": 8}, fake_vit(), "option 'grid' of the student 'dinomaly' is for a CNN's maps, but .* is a ViT"),
        ({"width": 64}, fake_vit(), "option 'width' of the student 'dinomaly' is for a CNN's maps, but .* is a ViT"),
        ({"layers": [["block2"], ["prefix2"]]}, fake_vit(), "the layer 'prefix2' of the backbone 'fake' holds other"),
        ({"layers": [["block1"], []]}, fake_vit(), "cannot share 8 decoder blocks among 2 groups"),
        (
            {"layers": [["stride8", "stride16"]]},
            FakeBackbone(CNN, "cnn", 224),
            "differ in channels: put them into groups",
        ),
    ],
)
def test_encoders_that_do_not_fit(options, backbone, sentence: str) -> None:
    with pytest.raises(PluginError, match=sentence):
        Dinomaly.layers_needed(DinomalyOptions(**options), backbone)


def test_a_layer_without_class_tokens_of_its_own() -> None:
    backbone = FakeBackbone([*fake_vit().layers, Layer("final", 32, 8, 8, signed=True)])
    options = DinomalyOptions(layers=[["block2"], ["final"]])
    with pytest.raises(PluginError, match="not for 'final': name blocks alone in 'layers'"):
        Dinomaly.layers_needed(options, backbone)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(PluginError, match="cannot split 32 channels among 5 heads: set 'heads'"):
        Dinomaly(DinomalyOptions(heads=5), [Layer("block1", 32, 4, 4), Layer("block2", 32, 4, 4)], ["a"])


def test_a_published_checkpoint_is_loaded(case: Recorded, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(case.below("state.") | {"encoder.cls_token": torch.zeros(1)}, path)
    loaded = recorded(weights=path).student
    for name, value in case.below("state.").items():
        assert torch.equal(loaded.state_dict()[name], value)
    with pytest.raises(PluginError, match=r"does not fit the model: 'decoder.6.attn.proj.bias' is unexpected"):
        recorded(weights=path, depth=6)
    with pytest.raises(PluginError, match=r"missing\.pth' does not exist"):
        recorded(weights=tmp_path / "missing.pth")


def test_bf16_trains_and_epsilon_keeps_it_finite(case: Recorded) -> None:
    case.student.decoder[0].attn.epsilon = 1e-6
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = case.student(case.features, case.classes)
    loss = case.student.loss(case.student.targets(case.features), outputs, Progress(500, 1000))
    loss.backward()
    assert loss.item() == pytest.approx(case.tensors["loss.global_cosine"].item(), rel=2e-2)
    assert all(torch.isfinite(p.grad).all() for p in case.student.parameters())


def test_a_batch_in_pieces_is_the_whole_batch(case: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for elements in (1, 2**30):
        monkeypatch.setattr(transformer_layers, "_PIECE_ELEMENTS", elements)
        case.student.zero_grad()
        outputs = case.student(case.features, case.classes)
        case.student.loss(case.student.targets(case.features), outputs, Progress(500, 1000)).backward()
        found.append([*outputs, *(parameter.grad for parameter in case.student.parameters())])
    for pieces, whole in zip(*found, strict=True):
        close(pieces, whole, 2e-6)


@pytest.mark.parametrize(("count", "elements"), [(16, 2**23), (16, 1), (1, 1), (5, 3 * 785 * 64), (16, 2**40)])
def test_pieces_are_alike_and_in_order(count: int, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer_layers, "_PIECE_ELEMENTS", elements)
    tokens = torch.empty(count, 785, 4)
    sizes = [len(tokens[piece]) for piece in in_pieces(tokens, 64)]
    assert torch.equal(torch.cat([torch.arange(count)[piece] for piece in in_pieces(tokens, 64)]), torch.arange(count))
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) * 785 * 64 <= max(elements, 785 * 64)


def test_a_gpu_takes_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer_layers, "_PIECE_ELEMENTS", 1)
    assert in_pieces(torch.empty(16, 785, 4, device="meta"), 64) == [slice(0, 16)]
