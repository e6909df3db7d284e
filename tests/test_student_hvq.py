"""HVQ-Trans against recorded numbers of the published network, and checkpoints of it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hvq_cases import HVQ, START, close, joined_map, loss_of, maps_of, near_largest, read, small
from torch import Tensor, nn

from meds.core import layer_names, scoring
from meds.core.errors import PluginError
from meds.plugins.students.hvq import HVQOptions
from meds.plugins.students.hvq_checkpoint import from_official


class Published:
    """The authors' network with 15 classes and 512 codes, filled by a rule."""

    def __init__(self, **options: Any) -> None:
        self.tensors, metadata = read("hvq.safetensors")
        options = {"width": 32, "dropout": 0.0, "codebook_start": "published", **options}
        self.student = HVQ(HVQOptions(**options), joined_map(24, 14), [f"class{i:02}" for i in range(15)])
        self.student.load_state_dict(from_official(self.filled(metadata["names"])))
        stages = {f"stride{2 << i}": self.tensors[f"input.feature_{i}"] for i in range(4)}
        self.features = [layer_names.compute(layer_names.on_grid(name, 14), stages) for name in stages]
        self.classes = self.tensors["input.class_index"]

    @staticmethod
    def filled(names: str) -> dict[str, Tensor]:
        state = {}
        for index, line in enumerate(names.splitlines()):
            name, shape_text = re.fullmatch(r"(\S+) \((.*)\)", line).groups()
            shape = [int(part) for part in shape_text.split(",") if part.strip()]
            values = np.sin(0.6180339887498949 * np.arange(math.prod(shape), dtype=np.float64) + index)
            if name.endswith("cluster_size"):
                values = 1 + 0.5 * values
            elif not name.endswith(("embed", "embed_avg")):
                if len(shape) > 1:
                    values *= math.sqrt(2) / math.sqrt(math.prod(shape[1:]))
                elif "norm" in name and name.endswith("weight"):
                    values = 1 + 0.1 * values
                else:
                    values *= 0.1
            state[name] = torch.from_numpy(values.astype(np.float32)).reshape(shape)
        return state


class TestPublishedSize:
    def test_joined_map_of_four_stages(self) -> None:
        case = Published()
        (target,) = case.student.targets(case.features)
        close(target, case.tensors["output.feature_align"])

    def test_reconstruction_map_and_score(self) -> None:
        case = Published()
        student, recorded, how = case.student.eval(), case.tensors, case.student.evaluation_defaults()
        with torch.inference_mode():
            targets, outputs = student.targets(case.features), student(case.features, case.classes)
            close(outputs[0], recorded["output.plain.feature_rec"])
            pixels = scoring.smooth(scoring.pixel_map(student.anomaly_maps(targets, outputs, "cosine"), how), how)
            close(pixels[:, None], recorded["output.plain.map_224"])
            close(scoring.image_scores(pixels, how), recorded["output.plain.image_score"])
            close(student.loss(targets, outputs, START), recorded["loss.eval.total"][0])
            commitment = (recorded["loss.eval.total"] - recorded["loss.eval.feature"]) / 0.25
            close(commitment, recorded["loss.eval.latent"], 1e-3)

    def test_transport_score_is_added_before_the_map_is_resized(self) -> None:
        case = Published(transport_score=True)
        student, how = case.student.eval(), case.student.evaluation_defaults()
        with torch.inference_mode():
            outputs = student(case.features, case.classes)
        close(outputs[0], case.tensors["output.ot.feature_rec"])
        pixels = scoring.pixel_map([maps_of(student, case.features, case.classes)], how)
        close(pixels[:, None], case.tensors["output.ot.map_224"])

    def test_training_mode(self) -> None:
        case = Published()
        recorded, tokens = case.tensors, {}
        for name in ("top", "lower"):
            books = getattr(case.student, name)
            books.register_forward_pre_hook(lambda module, inputs, name=name: tokens.update({name: inputs[0].detach()}))
        start = {name: value.clone() for name, value in case.student.state_dict().items()}
        loss = loss_of(case.student.train(), case.features, case.classes)
        loss.backward()
        close(loss.detach(), recorded["loss.train.total"][0])
        gradients = {name: parameter.grad for name, parameter in case.student.named_parameters()}
        prefix = "grad.train."
        wanted = from_official({k.removeprefix(prefix): v for k, v in recorded.items() if k.startswith(prefix)})
        assert len(wanted) == 4
        for name, expected in wanted.items():
            near_largest(gradients[name], expected, 1e-3)
        present = {f"heads.{index}.weight" for index in case.classes.tolist()}
        assert {name for name, grad in gradients.items() if name.endswith("weight") and grad is None} == {
            f"heads.{index}.weight" for index in range(15)
        } - present
        # Image 0 is the only one of class 3; its tokens for list 1 follow those of two images for lists 4, 3 and 2.
        for label, name, place, row in (("list_1", "lower", 3 * 15 + 3, 6), ("list_5", "top", 3, 0)):
            sure = ~self.nearly_tied(tokens[name][row].double(), start[f"{name}.codes"][place].double())
            assert int(sure.sum()) > 480
            books, after = getattr(case.student, name), f"codebook_after_train_forward.{label}.class_3"
            close(books.counts[place][sure], recorded[f"{after}.cluster_size"][sure])
            close(books.codes[place][sure], recorded[f"{after}.embed"].t()[sure])

    @staticmethod
    def nearly_tied(tokens: Tensor, codes: Tensor) -> Tensor:
        """Codes between which a token decides by less than float32 can tell; the rule makes them all alike."""
        gaps = (tokens[:, None] - codes).square().sum(dim=2)
        nearest = gaps.topk(2, dim=1, largest=False)
        near = nearest.values.diff(dim=1)[:, 0] < 1e-5
        return torch.zeros(len(codes), dtype=torch.bool).index_fill(0, nearest.indices[near].flatten(), True)


class Detail:
    """The recorded small case: three classes, 24 codes, everything stored."""

    def __init__(self, dtype: torch.dtype = torch.float32, **options: Any) -> None:
        self.tensors, self.metadata = read("hvq_detail.safetensors")
        options = {"width": 32, "feedforward": 64, "codes": 24, "dropout": 0.0, **options}
        options = {"codebook_start": "published", **options}
        self.student = HVQ(HVQOptions(**options), joined_map(24, 14), ["a", "b", "c"])
        self.student.load_state_dict(self.part("state."))
        self.student.to(dtype)
        self.features = [self.tensors["input.feature_align"].to(dtype)]
        self.classes = self.tensors["input.class_index"]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The recorded official entries under a prefix, by our names."""
        return from_official({k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)})

    def each(self, name: str) -> dict[str, Tensor]:
        """A recorded vector with a number for each parameter, by our names; without the layer that is never used."""
        order = json.loads(self.metadata["parameter_order"])
        return from_official(dict(zip(order, self.tensors[name], strict=True)))

    def watched(self) -> dict[str, Any]:
        """What the parts of the network give in a forward pass in evaluation mode."""
        found: dict[str, Any] = {}
        student = self.student.eval()
        for name in ("project", "position", "encoder", "top", "lower", "decoder"):
            getattr(student, name).register_forward_hook(
                lambda module, inputs, output, name=name: found.update({name: output, f"{name}.inputs": inputs})
            )
        with torch.inference_mode():
            found["output"] = student(self.features, self.classes)[0]
        return found

    def steps(self) -> tuple[list[float], list[float], dict[str, Tensor]]:
        """Losses, gradient norms and the parameters' change of three steps."""
        student, losses, norms = self.student.train(), [], []
        training = student.training_defaults()
        optimiser = training.optimiser(student.parameters())
        before = {name: value.detach().clone() for name, value in student.named_parameters()}
        for _ in range(3):
            loss = loss_of(student, self.features, self.classes)
            optimiser.zero_grad()
            loss.backward()
            norms.append(float(nn.utils.clip_grad_norm_(student.parameters(), training.clip_norm)))
            optimiser.step()
            losses.append(float(loss.detach()))
        return losses, norms, {name: value.detach() - before[name] for name, value in student.named_parameters()}


class TestDetail:
    def test_neck(self) -> None:
        tensors, _ = read("hvq_detail.safetensors")
        joined = tensors["input.feature_align"]
        for stage, channels in ((2, slice(8, 16)), (3, slice(16, 24))):
            maps = {"stage": tensors[f"neck.input.feature_{stage}"]}
            close(layer_names.compute("stage@14", maps), joined[:, channels])
        for stage, channel in ((0, 0), (1, 4)):
            maps = {"stage": tensors[f"neck.input.feature_{stage}.image0_channel0"][None, None]}
            close(layer_names.compute("stage@14", maps)[0, 0], joined[0, channel])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_every_part_in_evaluation_mode(self, dtype) -> None:
        case = Detail(dtype)
        found, recorded = case.watched(), case.tensors
        close(found["project"], recorded["output.tokens"])
        close(found["position"], recorded["output.pos_embed"])
        assert len(found["encoder"]) == 5
        for stage in (1, 4):
            close(found["encoder"][stage].transpose(0, 1), recorded[f"output.encoder.{stage}"])
        close(found["top"].values, recorded["output.quantised.5"])
        chosen = [found["top"].chosen, *found["lower"].chosen.chunk(4)]
        commitment = [found["top"].commitment, *found["lower"].commitment.chunk(4)]
        for place, number in enumerate((5, 4, 3, 2, 1)):
            assert torch.equal(chosen[place], recorded[f"output.codes.{number}"])
            close(commitment[place], recorded[f"output.commitment.{number}"])
        close(found["decoder.inputs"][0][0].transpose(0, 1), recorded["output.decoder_memory.0"])
        close(found["decoder"].transpose(0, 1), recorded["output.decoder"])
        close(found["output"], recorded["output.plain.feature_rec"])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_maps_scores_and_loss(self, dtype) -> None:
        for label, options in (("plain", {}), ("ot", {"transport_score": True})):
            case = Detail(dtype, **options)
            recorded, student = case.tensors, case.student.eval()
            maps = maps_of(student, case.features, case.classes)
            if label == "plain":
                close(maps[:, None], recorded["output.plain.map_14"])
            else:
                plain = recorded["output.plain.map_14"][:, 0]
                close((maps - plain) / 80, recorded["output.ot.score"].reshape(plain.shape))
            how = student.evaluation_defaults()
            pixels = scoring.pixel_map([maps], how)
            close(pixels[:, None, ::4, ::4], recorded[f"output.{label}.map_224_every4th"])
            close(scoring.image_scores(pixels, how), recorded[f"output.{label}.image_score_max"])
            close(pixels.flatten(1).std(dim=1, correction=0), recorded[f"output.{label}.image_score_std"])
            with torch.inference_mode():
                close(loss_of(student, case.features, case.classes), recorded["loss.eval.total"][0])

    def test_the_class_switches_codebooks_and_output(self) -> None:
        case = Detail()
        with torch.inference_mode():
            (output,) = case.student.eval()(case.features, torch.zeros(4, dtype=torch.int64))
        close(output, case.tensors["output.switch.feature_rec_all_class_0"])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_training_mode(self, dtype) -> None:
        case = Detail(dtype)
        recorded, student = case.tensors, case.student.train()
        targets, outputs = student.targets(case.features), student(case.features, case.classes)
        error = (outputs[0] - targets[0]).square().mean()
        loss = student.loss(targets, outputs, START)
        loss.backward()
        close(loss.detach(), recorded["loss.train.total"][0])
        close(error.detach(), recorded["loss.train.feature"][0])
        close((loss - error).detach() / 0.25, recorded["loss.train.latent"][0])
        gradients = {name: parameter.grad for name, parameter in student.named_parameters()}
        wanted = case.part("grad.train.")
        assert len(wanted) == 30
        for name, expected in wanted.items():
            near_largest(gradients[name], expected, 1e-4)
        norms = case.each("grad_norm_each.train")
        assert set(norms) == set(gradients)
        for name, expected in norms.items():
            assert float(gradients[name].double().norm()) == pytest.approx(float(expected), rel=1e-3)
        total = torch.stack([value.double().norm() for value in gradients.values()]).norm()
        close(total, recorded["grad_norm_total.train"][0])
        state, after = student.state_dict(), case.part("codebook_after_1.")
        assert set(after) == {name for name in state if name.startswith(("top.", "lower."))}
        for name, expected in after.items():
            close(state[name], expected)
            assert not torch.allclose(state[name], case.part("state.")[name].to(dtype), atol=1e-3)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_three_steps(self, dtype) -> None:
        case = Detail(dtype)
        losses, norms, change = case.steps()
        exact = dtype == torch.float64
        wanted = case.tensors["steps64.loss" if exact else "steps.loss"]
        np.testing.assert_allclose(losses, wanted.numpy(), rtol=1e-9 if exact else 1e-6)
        np.testing.assert_allclose(norms, case.tensors["steps.grad_norm"].numpy(), rtol=1e-5)
        each = case.each("steps64.delta_norm_each" if exact else "steps.delta_norm_each")
        assert set(each) == set(change)
        for name, expected in each.items():
            assert float(change[name].double().norm()) == pytest.approx(float(expected), rel=1e-6 if exact else 1e-2)
        deltas = case.part("steps64.delta_after_3.")
        assert len(deltas) == 24
        for name, expected in deltas.items():
            near_largest(1e4 * change[name], expected, 1e-6 if exact else 1e-2)
        for name, book in case.tensors.items():
            match = re.fullmatch(r"steps\.codebook_after_3\.quantize_list_5\.(\d)\.(\w+)", name)
            if match is not None:
                ours = {"embed": "codes", "cluster_size": "counts", "embed_avg": "sums"}[match[2]]
                close(getattr(case.student.top, ours)[int(match[1])], book.movedim(0, -1))


class TestOfficialCheckpoint:
    @staticmethod
    def saved(path: Path, **changes: Any) -> Path:
        tensors, _ = read("hvq_detail.safetensors")
        state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")} | changes
        state["enc.stem.weight"] = torch.zeros(3)
        state = {f"module.{name}": value for name, value in state.items() if value is not None}
        # The published script keeps its best figure, a number of numpy, beside the tensors.
        torch.save({"epoch": 3, "state_dict": state, "best_metric": np.float64(0.98)}, path)
        return path

    def test_is_loaded(self, tmp_path) -> None:
        case = Detail(weights=self.saved(tmp_path / "model.pth"))
        for name, expected in case.part("state.").items():
            assert torch.equal(case.student.state_dict()[name], expected), name

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"quantize_conv_t.bias": None}, "'project.bias' is missing"),
            ({"foo": torch.zeros(1)}, "'foo' is unexpected"),
            ({"decoder.norm.bias": torch.zeros(3)}, r"'decoder.norm.bias' has shape \(3,\) instead of \(64,\)"),
            ({"quantize_list_5.1.embed": torch.zeros(2, 2)}, "'top.codes' is missing"),
            ({"quantize_list_5.2.embed": None}, r"'top.codes' has shape \(2, 24, 32\) instead of \(3, 24, 32\)"),
        ],
    )
    def test_of_another_network_is_one_sentence(self, tmp_path, changes, message) -> None:
        path = self.saved(tmp_path / "model.pth", **changes)
        with pytest.raises(PluginError, match=message) as error:
            Detail(weights=path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)

    def test_of_another_number_of_classes_or_unreadable(self, tmp_path) -> None:
        path = self.saved(tmp_path / "model.pth")
        with pytest.raises(PluginError, match=r"does not fit the model: 'heads\.2\.bias' is unexpected"):
            small(2, 24, 14, width=32, heads=8, feedforward=64, codes=24, levels=4, weights=path)
        with pytest.raises(PluginError, match="does not exist"):
            small(weights=tmp_path / "none.pth")
