"""UniAD against slow references: which patches see which, the attention, the jitter, the decoder's order."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from meds_uniad import UniADOptions
from meds_uniad.student import UniAD
from meds_uniad.transformer import Attention, DecoderLayer, PositionEmbedding, neighbour_mask
from torch import Tensor

from meds.api import Layer, PluginError, Progress

LAYERS = [Layer("stride8", 6, 9, 9, 8), Layer("stride16", 5, 9, 9, 16)]
SMALL: dict[str, Any] = {"width": 8, "heads": 2, "feedforward": 16, "encoder_layers": 1, "decoder_layers": 2}


def student(**options: Any) -> UniAD:
    torch.manual_seed(0)
    return UniAD(UniADOptions(**(SMALL | options)), LAYERS, ["weave"])


def features(count: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(count, layer.channels, 9, 9, generator=generator) for layer in LAYERS]


@pytest.mark.parametrize(("height", "width", "side"), [(4, 5, 3), (9, 9, 7), (3, 3, 1), (2, 3, 0)])
def test_the_mask_forbids_the_square_around_a_position(height: int, width: int, side: int) -> None:
    mask = neighbour_mask(height, width, side)
    for y in range(height):
        for x in range(width):
            for v in range(height):
                for u in range(width):
                    near = side > 0 and abs(y - v) <= side // 2 and abs(x - u) <= side // 2
                    assert bool(mask[y * width + x, v * width + u]) == near


def test_a_mask_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(PluginError, match="'neighbours' lower"):
        student(neighbours=17)
    assert student(neighbours=7).mask.any()
    backbone = SimpleNamespace(family="cnn", layer={layer.name: layer for layer in LAYERS}.__getitem__)
    options = UniADOptions(**SMALL, layers=[layer.name for layer in LAYERS], neighbours=17)
    with pytest.raises(PluginError, match="'neighbours' lower"):
        UniAD.layers_needed(options, backbone)


def slow_attention(layer: Attention, tokens: Tensor, memory: Tensor, position: Tensor, mask: Tensor) -> np.ndarray:
    """Head by head and position by position, in double precision."""
    inner = layer.attention
    width, heads = inner.embed_dim, inner.num_heads
    weights = inner.in_proj_weight.double().detach().numpy()
    biases = inner.in_proj_bias.double().detach().numpy()
    out, bias = inner.out_proj.weight.double().detach().numpy(), inner.out_proj.bias.double().detach().numpy()
    result = []
    for x, m in zip(tokens.double().numpy(), memory.double().numpy(), strict=True):
        place = position.double().detach().numpy()
        query = (x + place) @ weights[:width].T + biases[:width]
        key = (m + place) @ weights[width : 2 * width].T + biases[width : 2 * width]
        value = m @ weights[2 * width :].T + biases[2 * width :]
        found = np.zeros_like(query)
        for head in range(heads):
            part = slice(head * width // heads, (head + 1) * width // heads)
            for i in range(len(query)):
                allowed = [j for j in range(len(key)) if not mask[i, j]]
                logits = np.array([query[i, part] @ key[j, part] for j in allowed]) / math.sqrt(width // heads)
                share = np.exp(logits - logits.max())
                found[i, part] = (share / share.sum()) @ value[allowed][:, part]
        summed = x + found @ out.T + bias
        centred = summed - summed.mean(axis=1, keepdims=True)
        result.append(centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + layer.norm.eps))
    return np.stack(result)


def test_attention_is_that_of_the_slow_reference() -> None:
    torch.manual_seed(2)
    layer, position = Attention(8, 2, 0.1).eval(), PositionEmbedding(4, 5, 8)()
    tokens, memory = torch.randn(2, 20, 8), torch.randn(2, 20, 8)
    mask = neighbour_mask(4, 5, 3)
    with torch.no_grad():
        found = layer(tokens, memory, position, mask)
    np.testing.assert_allclose(found, slow_attention(layer, tokens, memory, position, mask), atol=2e-6)


def test_a_position_is_its_column_beside_its_row() -> None:
    embedding = PositionEmbedding(3, 4, 6)
    found = embedding().detach().view(3, 4, 6)
    for y in range(3):
        for x in range(4):
            wanted = torch.cat([embedding.columns[x], embedding.rows[y]]).detach()
            torch.testing.assert_close(found[y, x], wanted)


def test_a_decoder_layer_begins_with_its_query_and_looks_at_the_memory_first() -> None:
    torch.manual_seed(3)
    layer = DecoderLayer(20, 8, 2, 16, 0.0).eval()
    memory, previous, position = torch.randn(2, 20, 8), torch.randn(2, 20, 8), torch.randn(20, 8)
    mask = neighbour_mask(4, 5, 3)
    with torch.no_grad():
        first = layer.to_memory(layer.query[None].repeat(2, 1, 1), memory, position, mask)
        second = layer.to_previous(first, previous, position, mask)
        torch.testing.assert_close(layer(memory, previous, position, mask), layer.feedforward(second))


def test_no_output_depends_on_its_own_neighbourhood_in_one_layer() -> None:
    """One layer of attention, so that nothing comes back over a third position."""
    torch.manual_seed(4)
    layer, mask = Attention(8, 2, 0.0).eval(), neighbour_mask(5, 5, 3)
    query, memory = torch.randn(1, 25, 8), torch.randn(1, 25, 8, requires_grad=True)
    middle = 12
    layer(query, memory, torch.randn(25, 8), mask)[0, middle].pow(2).sum().backward()
    reached = memory.grad.abs().sum(dim=2)[0] > 0
    assert torch.equal(reached, ~mask[middle])


def test_the_jitter_has_the_published_size() -> None:
    """Standard deviation: 20 times the norm of the token over its number of channels."""
    network = student()
    tokens = torch.randn(1, 4, 11) * torch.tensor([0.5, 1.0, 2.0, 4.0])[None, :, None]
    torch.manual_seed(5)
    noise = torch.stack([network._jittered(tokens) - tokens for _ in range(4000)])
    wanted = 20 * tokens.norm(dim=2) / 11
    torch.testing.assert_close(noise.std(dim=(0, 3)), wanted, rtol=0.02, atol=0)


def test_the_target_is_not_jittered_and_evaluation_never_is() -> None:
    network = student().train()
    (target,) = network.targets(features())
    torch.testing.assert_close(target, torch.cat(features(), dim=1))
    classes = torch.zeros(2, dtype=torch.int64)
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(network(features(), classes)[0], network(features(), classes)[0])


def test_loss_and_map_are_the_published_ones() -> None:
    network = student().eval()
    (target,), classes = network.targets(features()), torch.zeros(2, dtype=torch.int64)
    with torch.no_grad():
        (output,) = network(features(), classes)
    loss = network.loss([target], [output], Progress(0, 10))
    gaps = (target - output).numpy().astype(np.float64)
    assert loss.item() == pytest.approx(np.mean(gaps**2), rel=1e-5)
    (found,) = network.anomaly_maps([target], [output], "cosine")
    np.testing.assert_allclose(found, np.sqrt((gaps**2).sum(axis=1)), rtol=1e-5)
    assert network.evaluation_defaults().pool_window == 16
    assert network.evaluation_defaults().mask_resize == "nearest"


def test_the_learning_rate_falls_once() -> None:
    rate = student().training_defaults().learning_rate
    assert [rate(i, 1000) for i in (0, 799, 800, 999)] == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5])


def test_weights_start_as_published() -> None:
    network = student()
    bound = math.sqrt(6 / (8 + 16))
    first = network.encoder[0].feedforward.first
    assert first.weight.abs().max() <= bound
    assert first.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.2)
    assert all(not m.bias.any() for m in network.modules() if isinstance(m, torch.nn.Linear))


@pytest.mark.parametrize("options", [{"width": 10, "heads": 4}, {"neighbours": 4}])
def test_options_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        UniADOptions(**options)
