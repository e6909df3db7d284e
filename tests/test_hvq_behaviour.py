"""HVQ-Trans in meds: layers, start values, precision, anomaly maps, interrupted training and whole runs."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hvq_cases import HVQ, SMALL, START, close, joined_map, loss_of, maps_of, random_features, small
from pydantic import ValidationError
from stage_cases import LinearStudent, make_context
from torch import Tensor

from meds.core import scoring
from meds.core.backbone import Backbone, Layer, Preprocessing
from meds.core.errors import PluginError
from meds.core.model import EvaluationDefaults
from meds.core.partitions import StudentScorer, student_scorer
from meds.plugins.students.hvq import HVQOptions, meds_students
from meds.stages.distill import Distill
from meds.stages.options import DistillOptions


class FakeBackbone(Backbone):
    """Only what `layers_needed` looks at."""

    def __init__(self, layers: list[Layer], family: str = "cnn", size: int = 224) -> None:
        self.name, self.family, self.layers = "fake", family, tuple(layers)
        self.preprocessing = Preprocessing(size, size)

    def to(self, device):
        raise NotImplementedError

    def forward(self, images, layers):
        raise NotImplementedError


def pyramid(strides=(2, 4, 8, 16, 32), size=224) -> list[Layer]:
    return [Layer(f"stride{s}", 8, -(-size // s), -(-size // s)) for s in strides]


class TestLayersNeeded:
    def needed(self, backbone: Backbone, **options) -> tuple[str, ...]:
        return HVQ.layers_needed(HVQOptions(**options), backbone)

    def test_default_is_four_strides_on_the_grid_of_the_coarsest(self) -> None:
        backbone = FakeBackbone(pyramid())
        assert self.needed(backbone) == ("stride2@14", "stride4@14", "stride8@14", "stride16")
        assert self.needed(backbone, grid=28) == ("stride2@28", "stride4@28", "stride8", "stride16@28")
        assert self.needed(FakeBackbone(pyramid(size=64), size=64))[0] == "stride2@4"

    def test_chosen_layers_of_any_backbone(self) -> None:
        assert self.needed(FakeBackbone(pyramid()), layers=["stride8", "stride32"]) == ("stride8@7", "stride32")
        blocks = [Layer(f"block{i}", 8, 16, 16) for i in range(4)]
        assert self.needed(FakeBackbone(blocks, "vit"), layers=["block1", "block3"]) == ("block1", "block3")

    def test_backbones_that_cannot_serve(self) -> None:
        with pytest.raises(PluginError, match="is a VIT: name the layers"):
            self.needed(FakeBackbone(pyramid(), "vit"))
        with pytest.raises(PluginError, match="none at stride 2"):
            self.needed(FakeBackbone(pyramid((4, 8, 16, 32))))
        with pytest.raises(PluginError, match="did you mean 'stride16'"):
            self.needed(FakeBackbone(pyramid()), layers=["strid16"])

    def test_efficientnet_b4_has_the_published_channels(self) -> None:
        timm = pytest.importorskip("timm")
        with torch.device("meta"):
            stages = timm.create_model("efficientnet_b4", num_classes=0).feature_info
        assert [(stage["reduction"], stage["num_chs"]) for stage in stages][:4] == [
            (2, 24),
            (4, 32),
            (8, 56),
            (16, 160),
        ]


def test_size_of_the_published_network() -> None:
    with torch.device("meta"):
        student = HVQ(HVQOptions(), joined_map(272, 14), [str(index) for index in range(15)])
    assert sum(parameter.numel() for parameter in student.parameters()) == 17_944_304
    # Codes, sums and counts: 512 codes of 256 numbers and four times 512 codes of 512 for each class.
    assert sum(buffer.numel() for buffer in student.buffers()) == 15 * 512 * (2 * (256 + 4 * 512) + 5)


def test_start_values_depend_on_torch_s_generator_only() -> None:
    student, again = small(), small()
    for name, value in student.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    wide = small(width=128, codes=200)
    attention = wide.encoder.layers[0].self_attn
    assert float(attention.in_proj_weight.detach().std()) == pytest.approx(math.sqrt(2 / (4 * 128)), rel=0.02)
    assert not attention.in_proj_bias.any()
    for stack in (wide.encoder, wide.decoder):
        first, *others = (layer.state_dict() for layer in stack.layers)
        assert others, "as published, the layers of a stack start alike"
        assert all(torch.equal(value, other[name]) for other in others for name, value in first.items())
    assert float(wide.lower.codes.std()) == pytest.approx(1.0, rel=0.02)
    assert torch.equal(wide.lower.codes, wide.lower.sums)
    rows = wide.position.rows.detach()
    assert 0 <= float(rows.min()) <= float(rows.max()) <= 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("batch", [1, 5])
def test_forward_and_backward_are_finite(precision, batch) -> None:
    student, features = small(grid=5, transport_score=True), random_features(batch, grid=5)
    classes = torch.arange(batch) % 2
    for mode in (True, False):
        student.train(mode)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            outputs = student(features, classes)
        targets = student.targets(features)
        assert [o.shape for o in outputs] == [t.shape for t in targets] == [(batch, 10, 5, 5)]
        loss = student.loss(targets, outputs, START)
        assert (loss.dtype, bool(torch.isfinite(loss))) == (torch.float32, True)
        if mode:
            loss.backward()
            assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)
    (found,) = student.anomaly_maps(targets, [output.detach() for output in outputs], "cosine")
    assert (found.dtype, found.shape, bool(torch.isfinite(found).all())) == (torch.float32, (batch, 5, 5), True)


def test_bf16_is_close_to_float32() -> None:
    student, features, classes = small(dropout=0.0).eval(), random_features(), torch.tensor([0, 1, 1, 0])
    with torch.inference_mode():
        expected = loss_of(student, features, classes)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = student(features, classes)
        loss = student.loss(student.targets(features), outputs, START)
    assert float(loss) == pytest.approx(float(expected), rel=0.03)


def test_targets_are_joined_detached_and_float32() -> None:
    features = [value.bfloat16().requires_grad_() for value in random_features() * 2]
    (target,) = small().targets(features)
    assert (target.shape, target.dtype, target.requires_grad) == ((4, 20, 4, 4), torch.float32, False)


def test_misuse_by_code_is_refused() -> None:
    student, features = small(), random_features(1)
    for index in (-1, 2):
        with pytest.raises(IndexError, match=f"class index {index}: the student has 2 classes"):
            student(features, torch.tensor([index]))
    loss_of(student, features, torch.tensor([0]))
    with pytest.raises(RuntimeError, match="must follow the forward pass"):
        student.loss(features, features, START)


def test_an_absent_class_is_left_alone() -> None:
    student, features = small(codebook_start="published"), random_features()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    optimiser = student.training_defaults().optimiser(student.parameters())
    loss_of(student, features, torch.zeros(4, dtype=torch.int64)).backward()
    optimiser.step()
    after = student.state_dict()
    assert torch.equal(after["heads.1.weight"], before["heads.1.weight"])
    assert not torch.equal(after["heads.0.weight"], before["heads.0.weight"])
    moved = [not torch.equal(after["lower.codes"][i], before["lower.codes"][i]) for i in range(4)]
    assert moved == [True, False, True, False]


def test_defaults_are_the_published_ones() -> None:
    student = small()
    training, evaluation = student.training_defaults(), student.evaluation_defaults()
    optimiser = training.optimiser(student.parameters())
    assert isinstance(optimiser, torch.optim.AdamW)
    assert (optimiser.defaults["lr"], optimiser.defaults["betas"]) == (1e-4, (0.9, 0.999))
    assert optimiser.defaults["weight_decay"] == 1e-4
    assert (training.batch_size, training.epochs, training.iterations, training.clip_norm) == (16, 1000, None, 0.1)
    rates = [training.learning_rate(iteration, 1000) for iteration in (0, 799, 800, 999)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5])
    assert small(drop_at=1.0).training_defaults().learning_rate(999, 1000) == 1e-4
    assert (evaluation.map_size, evaluation.smoothing, evaluation.align_corners) == (224, "none", True)
    assert (evaluation.image_score, evaluation.pool_window) == ("pooled-max", 16)
    assert (evaluation.mask_rule, evaluation.mask_resize) == ("any", "nearest")


def test_registration_and_options() -> None:
    (plugin,) = meds_students()
    assert (plugin.name, plugin.options, plugin.selecting) == ("hvq", HVQOptions, {"epochs": 200, "drop_at": 1.0})
    for wrong, message in (
        ({"width": 20}, "multiple of heads"),
        ({"width": 21, "heads": 7}, "multiple of 2"),
        ({"transport_score": True, "map": "distance"}, "belongs to the published map"),
        ({"transport_weight": 3.0}, "no effect unless transport_score"),
        ({"layers": []}, "at least 1 item"),
    ):
        with pytest.raises(ValidationError, match=message):
            HVQOptions(**wrong)


class TestAnomalyMaps:
    """The hook by which a student measures in evaluation as its paper does."""

    def test_published_and_shared_maps(self) -> None:
        features, classes = random_features(), torch.tensor([0, 1, 1, 0])
        own = small().eval()
        (target,), (output,) = own.targets(features), own(features, classes)
        close(maps_of(own, features, classes), torch.linalg.vector_norm(target - output.detach(), dim=1))
        shared = maps_of(small(map="distance").eval(), features, classes)
        close(shared, scoring.patch_distance(target, output.detach()))

    def test_default_is_the_patch_distance_of_each_group(self) -> None:
        student = LinearStudent(None, [Layer("a", 3, 2, 2), Layer("b", 5, 4, 4)], ["x"])
        features = [torch.randn(2, 3, 2, 2), torch.randn(2, 5, 4, 4)]
        outputs = [value.detach() for value in student(features, torch.zeros(2))]
        for distance in ("cosine", "euclidean"):
            maps = student.anomaly_maps(features, outputs, distance)
            for ours, feature, output in zip(maps, features, outputs, strict=True):
                assert torch.equal(ours, scoring.patch_distance(feature, output, distance))

    def test_a_distilled_student_is_measured_as_it_was_taught(self, tmp_path) -> None:
        features, classes = random_features(), torch.tensor([0, 1, 1, 0])
        context = context_of(features[0], tmp_path)
        student = context.new_student("all").eval()

        class Stored:
            info = {"distance": "cosine"}

            def tensors(self, name: str) -> dict[str, Tensor]:
                return student.state_dict()

        with torch.inference_mode():
            trained = student_scorer(context, Stored())
            assert isinstance(trained, StudentScorer)
            distilled = Distill(DistillOptions()).scorer(context, Stored())
            own, taught = (scorer.scores(features, classes).maps[0] for scorer in (trained, distilled))
            (target,), (output,) = student.targets(features), student(features, classes)
        close(own, torch.linalg.vector_norm(target - output, dim=1))
        close(taught, scoring.patch_distance(target, output))


def test_pooled_maximum_is_the_largest_mean_of_a_whole_window() -> None:
    maps = torch.rand(2, 9, 9)
    how = EvaluationDefaults(image_score="pooled-max", pool_window=4)
    wanted = [max(float(m[i : i + 4, j : j + 4].mean()) for i in range(6) for j in range(6)) for m in maps]
    assert scoring.image_scores(maps, how).tolist() == pytest.approx(wanted)
    large = dataclasses.replace(how, pool_window=16)
    assert scoring.image_scores(maps, large).tolist() == pytest.approx(maps.mean(dim=(1, 2)).tolist())


def context_of(features: Tensor, folder: Path, **options: Any) -> Any:
    context = make_context([features], ["a", "b", "b", "a"], folder, student_class=HVQ)
    return dataclasses.replace(context, student_options=HVQOptions(**SMALL, layers=["layer0"], **options))


class TestRun:
    """Whole runs on drawn images with a random EfficientNet-Lite0."""

    STUDENT = {"type": "hvq", **SMALL}

    def test_whole_pipeline(self, project, tiny_spec) -> None:
        project.run_well(spec={**tiny_spec, "student": self.STUDENT})
        assert project.computed() == ["memory", "distill", "select-finetune", "evaluate"]
        metrics = project.json("metrics.json")
        assert all(0 <= value <= 1 for value in metrics["mean"].values())
        assert metrics["evaluation"]["image_score"] == "pooled-max"
        resolved = project.file("spec.yaml").read_text()
        assert "epochs: 200" in resolved

    def test_plain_student_with_transport_score_and_another_image_score(self, project, tiny_spec) -> None:
        stages = [
            {"type": "fit", "iterations": 3, "batch_size": 4},
            {"type": "evaluate", "map_size": 64, "image_score": "max"},
        ]
        student = {**self.STUDENT, "transport_score": True}
        project.run_well(spec={**tiny_spec, "student": student, "stages": stages})
        assert project.json("metrics.json")["evaluation"]["image_score"] == "max"
        scores = [float(row["score"]) for row in project.rows("predictions.csv")]
        assert len(scores) == 16
        # Eighty times a cost of about 1 in every pixel.
        assert min(scores) > 40
        assert "epochs: 1000" in project.file("spec.yaml").read_text()

    def test_a_vit_needs_named_layers(self, project, tiny_spec) -> None:
        backbone = {"type": "timm", "model": "test_vit", "pretrained": False, "image_size": 64}
        done = project.run(spec={**tiny_spec, "student": self.STUDENT, "backbone": backbone})
        assert done.code == 2
        assert "name the layers in the student's option 'layers'" in done.said
        stages = [{"type": "fit", "iterations": 1, "batch_size": 2}]
        student = {**self.STUDENT, "layers": ["block0", "block1"]}
        project.run_well(spec={**tiny_spec, "student": student, "backbone": backbone, "stages": stages})
        assert project.computed() == ["fit"]
