"""Faithfulness of rankings: slow loops, ties, padding, a linear model whose order is known, random orders."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import faithfulness as plain
from scipy.stats import spearmanr
from torch import Tensor

from lightning_interp.functional import (
    comprehensiveness,
    decision_flip,
    flip_fraction,
    fractions_kept,
    leading_tokens,
    rank_agreement,
    removal_orders,
    spearman,
    sufficiency,
)
from lightning_interp.functional.faithfulness import FRACTIONS

SEEDS = st.integers(0, 10**6)


def batch(seed: int, examples: int = 3, tokens: int = 9, levels: int = 4) -> tuple[Tensor, Tensor]:
    """Scores of a few levels, and which tokens can be removed: at least one of each example, anywhere."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, levels, (examples, tokens), generator=generator).double() / levels - 0.25
    mask = torch.rand(examples, tokens, generator=generator) < 0.7
    mask[:, 4] = True
    return scores, mask


def probability(weights: Tensor, bias: float = -0.5) -> Callable[[set[int]], float]:
    """Of a logistic model that adds the weights of the tokens that are there."""
    values = weights.tolist()
    return lambda there: 1 / (1 + math.exp(-bias - math.fsum(values[i] for i in sorted(there))))


def batched(weights: Tensor, there: Tensor, bias: float = -0.5) -> Tensor:
    """The same from bool (…, N)."""
    return (there.double() @ weights + bias).sigmoid()


@given(SEEDS)
def test_the_first_order_is_that_of_a_loop(seed: int) -> None:
    scores, mask = batch(seed)
    found = removal_orders(scores, mask, ties="first")
    assert found.tolist() == [[plain.order(*row) for row in zip(scores.tolist(), mask.tolist(), strict=True)]]
    assert removal_orders(scores[0], mask[0], ties="first").tolist() == found[:, 0].tolist()


@given(SEEDS, st.integers(1, 5))
def test_drawn_orders_fall_and_hold_every_token_once(seed: int, draws: int) -> None:
    scores, mask = batch(seed)
    found = removal_orders(scores, mask, draws=draws, seed=seed)
    assert found.shape == (draws, *scores.shape)
    assert torch.equal(found.sort(-1).values, torch.arange(9).expand_as(found))
    for orders in found:
        for order, row, real in zip(orders.tolist(), scores.tolist(), mask.tolist(), strict=True):
            n = sum(real)
            assert all(real[i] for i in order[:n])
            assert [row[i] for i in order[:n]] == sorted((row[i] for i in order[:n]), reverse=True)
            assert order[n:] == [i for i in range(len(row)) if not real[i]]


def test_every_order_of_equal_scores_is_as_likely() -> None:
    found = removal_orders(torch.tensor([0.5, 0.9, 0.5, -0.0, 0.5, 0.0]), draws=6000)
    assert (found[:, 0] == 1).all()
    orders, counts = found.unique(dim=0, return_counts=True)
    assert {tuple(one) for one in orders.tolist()} == {
        (1, *three, *two) for three in permutations((0, 2, 4)) for two in permutations((3, 5))
    }
    torch.testing.assert_close(counts / 6000, torch.full((12,), 1 / 12), atol=0.015, rtol=0)


def test_draws_belong_to_the_example_whatever_its_batch_and_padding() -> None:
    scores = torch.zeros(3, 6)
    before = torch.get_rng_state()
    whole = removal_orders(scores, samples=torch.tensor([7, 8, 9]), seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(removal_orders(scores[1:2], samples=torch.tensor([8]), seed=3)[:, 0], whole[:, 1])
    left = torch.arange(8) >= 2
    padded = removal_orders(torch.zeros(1, 8), left[None], samples=torch.tensor([8]), seed=3)
    assert torch.equal(padded[:, 0, :6] - 2, whole[:, 1])
    assert torch.equal(removal_orders(scores, samples=torch.tensor([7, 8, 9]), draws=3, seed=3), whole[:3])
    assert not torch.equal(whole[:, 0], whole[:, 1])
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole, removal_orders(scores, samples=torch.tensor([7, 8, 9]), seed=4))


def test_scores_without_ties_have_one_order_in_every_dtype() -> None:
    scores = torch.tensor([3, 1, 4, 2])
    for dtype in (torch.int64, torch.float16, torch.bfloat16, torch.float64):
        assert removal_orders(scores.to(dtype), draws=2).tolist() == [[2, 0, 3, 1]] * 2
    large = torch.tensor([2**40, 2**40 + 1])
    assert removal_orders(large, ties="first").tolist() == [[1, 0]]
    infinite = torch.tensor([0.0, -torch.inf, torch.inf, torch.nan])
    assert removal_orders(infinite, torch.tensor([1, 1, 1, 0]).bool(), draws=1).tolist() == [[2, 0, 1, 3]]
    nothing = removal_orders(torch.rand(1, 3), torch.zeros(1, 3, dtype=torch.bool), draws=2)
    assert nothing.tolist() == [[[0, 1, 2]]] * 2


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=5), st.lists(st.sampled_from(range(1, 101)), min_size=1))
def test_numbers_of_tokens_are_those_of_a_loop(n: list[int], percents: list[int]) -> None:
    fractions = [one / 100 for one in percents]
    found = fractions_kept(torch.tensor(n), fractions)
    assert found.tolist() == [[plain.count(one, q) for q in fractions] for one in n]
    assert found.tolist() == [[max(1, percent * one // 100) for percent in percents] for one in n]
    assert fractions_kept(n[0], fractions).tolist() == found[0].tolist()


def test_a_share_that_is_a_whole_number_of_tokens_is_that_number() -> None:
    assert 0.29 * 100 < 29
    assert fractions_kept(100, (0.29, 0.57, 0.58, 1.0)).tolist() == [29, 57, 58, 100]


@given(SEEDS)
def test_measures_of_padded_batches_are_those_of_loops(seed: int) -> None:
    scores, mask = batch(seed)
    weights = torch.randn(9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    orders = removal_orders(scores, mask, draws=3, seed=seed)
    top = leading_tokens(orders, fractions_kept(mask.sum(-1)))
    full = batched(weights, mask)
    lost = comprehensiveness(full, batched(weights, mask[:, None] & ~top))
    kept = sufficiency(full, batched(weights, mask[:, None] & top))
    steps = leading_tokens(orders, torch.arange(10))
    decisions = (batched(weights, mask[:, None] & ~steps) > 0.5).long()
    share, flips = flip_fraction(decisions, mask), decision_flip(decisions[0, :, 0], decisions[..., 1])
    p = probability(weights)
    for d in range(3):
        for b in range(3):
            ranked, n = orders[d, b].tolist(), int(mask[b].sum())
            assert lost[d, b].item() == pytest.approx(plain.comprehensiveness(p, ranked, n, FRACTIONS), abs=1e-12)
            assert kept[d, b].item() == pytest.approx(plain.sufficiency(p, ranked, n, FRACTIONS), abs=1e-12)
            along = [int(p(set(ranked[k:n])) > 0.5) for k in range(n + 1)]
            assert decisions[d, b, : n + 1].tolist() == along
            assert share[d, b].item() == pytest.approx(plain.flip_fraction(along, n))
            assert flips[d, b].item() == float(along[1] != along[0])


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=6))
def test_the_order_of_a_linear_model_is_the_best_of_all(values: list[float]) -> None:
    weights, n = torch.tensor(values, dtype=torch.float64), len(values)
    fractions, p = (0.2, 0.5, 0.8), probability(weights)
    top = leading_tokens(removal_orders(weights, draws=1)[0], fractions_kept(n, fractions))
    full = batched(weights, torch.ones(n))
    lost, kept = comprehensiveness(full, batched(weights, ~top)), sufficiency(full, batched(weights, top))
    every = list(permutations(range(n)))
    assert float(lost) == pytest.approx(max(plain.comprehensiveness(p, one, n, fractions) for one in every), abs=1e-12)
    assert float(kept) == pytest.approx(min(plain.sufficiency(p, one, n, fractions) for one in every), abs=1e-12)


def test_a_linear_model_loses_by_each_token_what_its_weight_says() -> None:
    weights = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alone = batched(weights, torch.ones(12)) - batched(weights, ~torch.eye(12, dtype=torch.bool))
    assert float(rank_agreement(weights, alone)) == pytest.approx(1)
    assert float(rank_agreement(-weights, alone)) == pytest.approx(-1)


def test_a_random_order_loses_what_random_removal_does() -> None:
    weights = torch.tensor([3.0, 0.0, 0.5, -1.0, 0.2, 0.2, 1.0, 0.0], dtype=torch.float64)
    fractions, draws = (0.2, 0.5), 4000
    orders = removal_orders(torch.zeros(8), draws=draws, seed=1)
    full = batched(weights, torch.ones(8))
    found = comprehensiveness(full, batched(weights, ~leading_tokens(orders, fractions_kept(8, fractions))))
    expected = plain.random_comprehensiveness(probability(weights), 8, fractions)
    error = float(found.std()) / math.sqrt(draws)
    assert error < 0.005
    assert float(found.mean()) == pytest.approx(expected, abs=4 * error)
    best = removal_orders(weights, draws=1)
    assert float(comprehensiveness(full, batched(weights, ~leading_tokens(best, fractions_kept(8, fractions))))) > (
        expected + 0.1
    )


def test_one_cue_decides() -> None:
    """The class follows one token: perfect rankings find it first, random ones after half of the tokens."""
    n, cue = 10, 3
    scores = torch.zeros(200, n)
    scores[:, cue] = 1
    share = []
    for ranking in (scores, torch.zeros_like(scores)):
        steps = leading_tokens(removal_orders(ranking, draws=20), torch.arange(n + 1))
        share.append(flip_fraction((~steps[..., cue]).long()))
    torch.testing.assert_close(share[0], torch.full_like(share[0], 0.1))
    assert float(share[1].mean()) == pytest.approx(0.55, abs=0.03)  # mean of 1/n … n/n


@given(SEEDS, st.booleans())
def test_rank_agreement_is_spearman_of_each_example(seed: int, whole: bool) -> None:
    scores, mask = batch(seed)
    drops, _ = batch(seed + 1, levels=7)
    drops[0, 0], scores[0, 1] = torch.inf, torch.inf
    if whole:
        mask = torch.ones_like(mask)
    found = rank_agreement(scores, torch.where(mask, drops, torch.nan), None if whole else mask)
    for b in range(3):
        expected = spearman(scores[b][mask[b]], drops[b][mask[b]])
        assert found[b].item() == pytest.approx(expected, abs=1e-12, nan_ok=True)
        if whole:
            reference = spearmanr(scores[b].numpy(), drops[b].numpy()).statistic
            assert found[b].item() == pytest.approx(reference, abs=1e-12, nan_ok=True)


def test_rank_agreement_where_there_is_no_order() -> None:
    assert rank_agreement(torch.ones(2, 3), torch.rand(2, 3)).isnan().all()
    assert rank_agreement(torch.rand(1, 3), torch.rand(1, 3), torch.tensor([[True, False, False]])).isnan().all()
    assert rank_agreement(torch.zeros(2, 0), torch.zeros(2, 0)).isnan().all()
    scores = torch.rand(2, 5, 4)
    torch.testing.assert_close(rank_agreement(scores, scores), torch.ones(2, 5).double())


def test_flips_of_short_and_empty_examples() -> None:
    predictions = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]]).bool()
    assert flip_fraction(predictions, mask).tolist() == pytest.approx([1.0, 1.0, math.nan, 1.0], nan_ok=True)
    assert flip_fraction(torch.tensor([0])).isnan()
    assert flip_fraction(torch.tensor([2, 3, 2])).item() == 0.5  # the first flip counts, though it turns back


def test_numbers_stay_where_they_are() -> None:
    full, without = torch.rand(4), torch.rand(3, 4, 2)
    assert comprehensiveness(full, without).shape == (3, 4)
    assert comprehensiveness(full.bfloat16(), without.bfloat16()).dtype == torch.float32
    assert (comprehensiveness(full, full[:, None]) == 0).all()
    assert (sufficiency(full, full[:, None].expand(4, 3)).abs() < 1e-6).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: removal_orders(torch.ones(3), ties="last"), r"`ties` must be one of \['average', 'first'\], got"),
        (lambda: removal_orders(torch.ones(3), draws=0), "`draws` must be at least 1, got 0"),
        (lambda: removal_orders(torch.ones(1, 2, 3)), r"`scores` must be \(N,\) or \(B, N\), got shape \(1, 2, 3\)"),
        (lambda: removal_orders(torch.ones(3), torch.ones(4)), r"`mask` must have .* `scores`, \(3,\), got shape \(4,"),
        (lambda: removal_orders(torch.tensor([1.0, math.nan])), "`scores` has 1 NaN among 2 tokens"),
        (lambda: removal_orders(torch.ones(2, 3), samples=torch.ones(3)), r"`samples` must be \(B,\) = \(2,\)"),
        (lambda: fractions_kept(3, ()), r"`fractions` must lie above 0 .* got \[\]"),
        (lambda: fractions_kept(3, (0.0, 0.5)), r"`fractions` must lie above 0 .* got \[0.0, 0.5\]"),
        (lambda: fractions_kept(torch.tensor([3, 0])), r"`n` must be whole numbers .* got \[3, 0\]"),
        (lambda: fractions_kept(torch.tensor([3.0])), "`n` must be whole numbers"),
        (lambda: leading_tokens(torch.ones(2, 3), torch.ones(3, 1)), r"`counts` must be .*\(3, 1\) and \(2, 3\)"),
        (lambda: comprehensiveness(torch.ones(3), torch.ones(2, 4)), r"`full` does not fit to `without_top`: .*\(3,\)"),
        (lambda: comprehensiveness(torch.ones(3), torch.ones(3)), r"`full` does not fit .*\(3,\) is not the end of \("),
        (lambda: sufficiency(torch.ones(3), torch.ones(3, 0)), r"`only_top` must be \(…, Q\), got shape \(3, 0\)"),
        (lambda: decision_flip(torch.ones(3), torch.ones(2)), "`prediction` does not fit to `prediction_without_top`"),
        (lambda: flip_fraction(torch.ones(2, 4), torch.ones(2, 4)), r"`mask` must be \(B, N\) .*\(2, 4\) and \(2, 4\)"),
        (lambda: flip_fraction(torch.ones(2, 4), torch.ones(3, 3)), "`mask` does not fit to `predictions`"),
        (lambda: flip_fraction(torch.ones(2, 0)), r"`predictions` must be \(…, N \+ 1\), got shape \(2, 0\)"),
        (lambda: rank_agreement(torch.ones(3), torch.ones(4)), r"one shape, got \(3,\) and \(4,\)"),
        (lambda: rank_agreement(torch.ones(1), torch.tensor([math.nan])), "`single_removal_drops` has 1 NaN"),
    ],
)
def test_arguments(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
