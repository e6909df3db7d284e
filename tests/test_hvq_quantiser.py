"""The codebooks of HVQ-Trans: nearest codes, moving averages one image after another, starts that do not collapse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from meds.plugins.students.hvq_quantiser import Codebooks, turns

GOLDEN = load_file(Path(__file__).parent / "golden" / "hvq_detail.safetensors")


def books_for(count: int, size: int, width: int, revive: bool = False, dtype: torch.dtype = torch.float32) -> Codebooks:
    torch.manual_seed(0)
    return Codebooks(count, size, width, 0.99, revive).to(dtype)


def settled(count: int, size: int, width: int, revive: bool = False) -> Codebooks:
    """Codebooks in the midst of a training: float64, counts of any size, codes that are sums over counts."""
    books = books_for(count, size, width, revive, torch.float64)
    books.counts.uniform_(0.5, 2.0)
    books.sums.copy_(books.codes * books.counts[..., None])
    return books


class TestFirstUpdate:
    """The recorded first update of a new codebook of the authors' code."""

    def test_published_start(self) -> None:
        books = books_for(1, 5, 6)
        start = GOLDEN["fresh.embed_before"].t()[None].contiguous()
        books.codes.copy_(start)
        books.sums.copy_(start)
        result = books.train()(GOLDEN["fresh.input"][None], [0])
        assert torch.equal(result.chosen[0], GOLDEN["fresh.codes"])
        torch.testing.assert_close(result.commitment, GOLDEN["fresh.commitment"])
        torch.testing.assert_close(books.counts[0], GOLDEN["fresh.cluster_size_after"])
        torch.testing.assert_close(books.sums[0].t(), GOLDEN["fresh.embed_avg_after"])
        torch.testing.assert_close(books.codes[0].t(), GOLDEN["fresh.embed_after"])
        unused = torch.ones(5, dtype=torch.bool).index_fill(0, GOLDEN["fresh.codes"].unique(), False)
        assert unused.any()
        assert (books.codes[0][unused].norm(dim=1) > 1e4).all()

    def test_mended_start(self) -> None:
        books = books_for(1, 5, 6, revive=True)
        tokens = GOLDEN["fresh.input"][None]
        result = books.train()(tokens, [0])
        assert float(books.codes.abs().max()) <= float(tokens.abs().max())
        assert torch.equal(books.counts > 0, torch.ones(1, 5, dtype=torch.bool))
        assert set(result.chosen.unique().tolist()) == set(range(5))
        # Each code is a token of the image, and serves at least that one.
        assert (torch.cdist(result.values, tokens)[0].min(dim=1).values < 1e-3).all()
        assert int((result.values == tokens).all(dim=2).sum()) >= 5


def one_after_another(books: Codebooks, tokens: Tensor, order: list[int]) -> tuple[Tensor, Tensor]:
    """The slow reference: every image alone, every code in a loop; moves the codebooks."""
    values, chosen = torch.empty_like(tokens), torch.empty(tokens.shape[:2], dtype=torch.int64)
    for row, book in enumerate(order):
        codes, size = books.codes[book].clone(), books.codes.shape[1]
        for token, vector in enumerate(tokens[row]):
            chosen[row, token] = int(((codes - vector) ** 2).sum(dim=1).argmin())
            values[row, token] = codes[chosen[row, token]]
        for code in range(size):
            served = tokens[row][chosen[row] == code]
            books.counts[book, code] = 0.99 * books.counts[book, code] + 0.01 * len(served)
            books.sums[book, code] = 0.99 * books.sums[book, code] + 0.01 * served.sum(dim=0)
        total = books.counts[book].sum()
        smoothed = (books.counts[book] + 1e-5) / (total + size * 1e-5) * total
        books.codes[book] = books.sums[book] / smoothed[:, None]
    return values, chosen


def test_training_moves_the_codebooks_image_by_image() -> None:
    fast, slow = settled(3, 7, 4).train(), settled(3, 7, 4)
    order = [1, 0, 1, 1, 2, 0]
    tokens = torch.randn(6, 9, 4, dtype=torch.float64)
    result = fast(tokens, order)
    values, chosen = one_after_another(slow, tokens, order)
    assert torch.equal(result.chosen, chosen)
    torch.testing.assert_close(result.values, values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.commitment, ((values - tokens) ** 2).mean(dim=(1, 2)), rtol=1e-12, atol=0)
    for ours, theirs in zip(fast.buffers(), slow.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    # Another order of the images gives other codes.
    other = settled(3, 7, 4).train()
    other(tokens.flip(0), order[::-1])
    assert not torch.allclose(other.codes, fast.codes, atol=1e-6)


def test_evaluation_moves_nothing() -> None:
    books = settled(2, 7, 4, revive=True).eval()
    before = [buffer.clone() for buffer in books.buffers()]
    tokens = torch.randn(3, 9, 4, dtype=torch.float64)
    result = books(tokens, [1, 1, 0])
    for row, book in enumerate([1, 1, 0]):
        assert torch.equal(result.chosen[row], torch.cdist(tokens[row], books.codes[book]).argmin(dim=1))
    assert all(torch.equal(now, then) for now, then in zip(books.buffers(), before, strict=True))


def test_gradient_goes_straight_through_and_codes_have_none() -> None:
    books = settled(1, 7, 4).train()
    tokens = torch.randn(1, 9, 4, dtype=torch.float64, requires_grad=True)
    result = books(tokens, [0])
    weights = torch.randn(1, 9, 4, dtype=torch.float64)
    (through,) = torch.autograd.grad((result.values * weights).sum(), tokens, retain_graph=True)
    assert torch.equal(through, weights)
    (pull,) = torch.autograd.grad(result.commitment.sum(), tokens)
    torch.testing.assert_close(pull, 2 * (tokens - result.values).detach() / 36)
    assert not list(books.parameters())


@pytest.mark.parametrize(
    ("order", "expected"),
    [([], []), ([4], [[0]]), ([2, 2, 2], [[0], [1], [2]]), ([5, 1, 5, 0, 1, 5], [[0, 1, 3], [2, 4], [5]])],
)
def test_turns(order, expected) -> None:
    assert turns(order) == expected


class TestDeadCodes:
    def test_only_dead_codes_are_replaced_and_each_by_another_token(self) -> None:
        books = settled(1, 8, 4, revive=True).train()
        books.counts[0, [2, 5]] = 0.01
        before = books.codes.clone()
        tokens = 100 + torch.randn(1, 3, 4, dtype=torch.float64)
        result = books(tokens, [0])
        # Far from all old codes, the tokens go to the two codes that have just become tokens.
        assert set(result.chosen[0].tolist()) == {2, 5}
        assert int((result.values == tokens).all(dim=2).sum()) == 2
        alive = [0, 1, 3, 4, 6, 7]
        torch.testing.assert_close(books.codes[0, alive], before[0, alive], rtol=1e-4, atol=1e-4)

    def test_an_image_gives_each_of_its_tokens_once(self) -> None:
        books = books_for(1, 10, 2, revive=True).train()
        first, second, third = torch.randn(3, 1, 4, 2).unbind()
        for image, filled in ((first, 4), (second, 8), (third, 10)):
            books(image, [0])
            assert int((books.counts > 0.05).sum()) == filled
        assert float(books.codes.norm(dim=2).max()) < 10

    def test_the_draw_is_torch_s_and_all_memory_is_in_the_buffers(self) -> None:
        tokens = torch.randn(8, 1, 12, 4)
        straight = books_for(1, 32, 4, revive=True).train()
        torch.manual_seed(5)
        for image in tokens[:4]:
            straight(image, [0])
        state, position = {k: v.clone() for k, v in straight.state_dict().items()}, torch.get_rng_state()
        resumed = Codebooks(1, 32, 4, 0.99, True).train()
        resumed.load_state_dict(state)
        for books in (straight, resumed):
            torch.set_rng_state(position)
            for image in tokens[4:]:
                books(image, [0])
        assert all(torch.equal(a, b) for a, b in zip(straight.buffers(), resumed.buffers(), strict=True))


def codes_in_use(revive: bool, updates: int) -> tuple[int, float]:
    """Codes that serve tokens of 20 new images after some updates, and the mean squared distance to them."""
    books = books_for(1, 128, 32, revive)
    generator = torch.Generator().manual_seed(1)
    centres = 22 * F.normalize(torch.randn(20, 32, generator=generator), dim=1)

    def images(count: int) -> Tensor:
        kinds = torch.randint(20, (count, 64), generator=generator)
        return centres[kinds] + torch.randn(count, 64, 32, generator=generator)

    books.train()
    for _ in range(updates):
        books(images(1), [0])
    result = books.eval()(images(20), [0] * 20)
    return len(result.chosen.unique()), float(result.commitment.mean())


def test_the_mended_start_uses_many_codes_where_the_published_one_collapses() -> None:
    published, lost = codes_in_use(False, 300)
    mended, kept = codes_in_use(True, 300)
    assert published <= 2
    assert mended >= 40
    # The noise around the 20 centres has a mean square of 1, the centres themselves 22 * 22 / 32 = 15.
    assert (lost > 10, kept < 1.2) == (True, True)


class TestTransportScore:
    def test_against_a_loop_over_codes(self) -> None:
        books = settled(2, 5, 4)
        books.codes[1, 3] = 0.0
        tokens = torch.randn(2, 3, 4, dtype=torch.float64)
        score = books.transport_score(tokens, [1, 0])
        for row, book in enumerate([1, 0]):
            for token in range(3):
                vector, codes = tokens[row, token], books.codes[book]
                weights = [torch.exp(vector @ code / 5) for code in codes]
                costs = [1 - F.cosine_similarity(vector, code, dim=0) for code in codes]
                wanted = sum(w * c for w, c in zip(weights, costs, strict=True)) / sum(weights)
                torch.testing.assert_close(score[row, token], wanted)

    def test_codes_far_out_do_not_overflow(self) -> None:
        books = books_for(1, 5, 4)
        books.codes.mul_(1e6)
        score = books.transport_score(torch.randn(1, 6, 4), [0])
        assert torch.isfinite(score).all()
        assert (score >= 0).all()
        assert (score <= 2).all()


def test_autocast_leaves_the_quantiser_in_float32() -> None:
    tokens = torch.randn(2, 9, 16)
    plain, mixed = books_for(1, 20, 16, revive=True), books_for(1, 20, 16, revive=True)
    for mode in (True, False):
        torch.manual_seed(1)
        expected = plain.train(mode)(tokens, [0, 0])
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = mixed.train(mode)(tokens, [0, 0])
            score = mixed.transport_score(tokens, [0, 0])
        assert torch.equal(result.values, expected.values)
        assert torch.equal(result.commitment, expected.commitment)
        assert torch.equal(mixed.codes, plain.codes)
        assert torch.equal(score, plain.transport_score(tokens, [0, 0]))
