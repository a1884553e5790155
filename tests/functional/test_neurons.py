"""Neurons: look-ups, contexts and their change against loops, detectors of tokens and of pairs, what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_interp.functional.neurons import (
    LookUp,
    context_churn,
    lookup_scores,
    lookup_sums,
    pearson,
    top_contexts,
)
from tests.reference import neurons as reference


def drawn(seed: int, number: int = 40, neurons: int = 3, tokens: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(tokens, (number,), generator=generator)
    a = torch.randn(number, neurons, generator=generator) + torch.randn(tokens, neurons, generator=generator)[ids]
    return a.relu(), ids


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_a_loop(seed: int) -> None:
    (a, ids), (b, others) = drawn(seed, 15), drawn(seed + 100)
    found = lookup_scores(lookup_sums(a, ids, 6), lookup_sums(b, others, 6))
    for neuron in range(3):
        fit, held_out = (
            list(zip(one.tolist(), x[:, neuron].double().tolist(), strict=True)) for one, x in ((ids, a), (others, b))
        )
        assert float(found[neuron]) == pytest.approx(reference.look_up(fit, held_out), abs=1e-9)


def test_sums_add_up_over_parts() -> None:
    a, ids = drawn(0)
    whole = lookup_sums(a, ids, 6)
    parts = [lookup_sums(a[some], ids[some], 6) for some in (slice(0, 13), slice(13, 40))]
    for one, *others in zip(whole, *parts, strict=True):
        assert torch.allclose(one, sum(others))


def test_a_token_detector_is_explained_and_one_of_pairs_is_not() -> None:
    ids = torch.randint(8, (4000,), generator=torch.Generator().manual_seed(0))
    of_tokens = torch.nn.functional.one_hot(ids, 8).float()
    pair = ids.roll(1) * 8 + ids
    of_pairs = torch.nn.functional.one_hot(pair, 64).float()

    def scores(a: torch.Tensor, kinds: torch.Tensor, number: int) -> torch.Tensor:
        return lookup_scores(
            *(lookup_sums(a[some], kinds[some], number) for some in (slice(0, 2000), slice(2000, 4000)))
        )

    assert torch.allclose(scores(of_tokens, ids, 8), torch.ones(8, dtype=torch.float64))
    assert torch.allclose(scores(of_pairs, pair, 64), torch.ones(64, dtype=torch.float64)), "a look-up of pairs knows"
    # Of a pair with probability p the token says √((p − p²/q) … ): about the root of 1/8.
    assert float(scores(of_pairs, ids, 8).mean()) == pytest.approx(math.sqrt(1 / 8), abs=0.05)
    permuted = ids[torch.randperm(4000, generator=torch.Generator().manual_seed(1))]
    assert float(scores(of_tokens, permuted, 8).abs().max()) < 4 / math.sqrt(2000)


def test_what_does_not_vary() -> None:
    ids = torch.tensor([0, 1, 0, 1])
    varies, still = torch.tensor([[0.0], [1.0], [0.0], [1.0]]), torch.full((4, 1), 0.7)
    sums = [lookup_sums(one, ids, 2) for one in (varies, still)]
    assert float(lookup_scores(sums[1], sums[0])) == 0, "the same is said of all tokens"
    assert lookup_scores(sums[0], sums[1]).isnan().all()
    nothing = LookUp(torch.zeros(2, 1).double(), torch.zeros(2).double(), torch.zeros(1).double())
    assert lookup_scores(nothing, nothing).isnan().all()


@pytest.mark.parametrize("seed", range(4))
def test_contexts_and_their_change_are_those_of_loops(seed: int) -> None:
    a, b = ((drawn(seed + more)[0] * 2).round() for more in (0, 50))  # with equal values
    found = [top_contexts(one, torch.arange(40), 7) for one in (a, b)]
    expected = [[reference.contexts(column, 7) for column in one.T.tolist()] for one in (a, b)]
    for (places, peaks), lists, one in zip(found, expected, (a, b), strict=True):
        for neuron, some in enumerate(lists):
            assert places[neuron].tolist() == some + [-1] * (7 - len(some))
            assert peaks[neuron, : len(some)].tolist() == one[some, neuron].tolist()
    churn = context_churn(found[0][0], found[1][0]).tolist()
    assert churn == pytest.approx([reference.churn(*pair) for pair in zip(*expected, strict=True)])


def test_contexts_of_parts_are_those_of_the_whole() -> None:
    a = (drawn(3, 60)[0] * 2).round()
    whole = top_contexts(a, torch.arange(60), 5)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    parts = [top_contexts(a[some], some, 5) for some in order.split(25)]
    merged = top_contexts(torch.cat([one for _, one in parts], 1).T, torch.cat([one for one, _ in parts], 1).T, 5)
    assert torch.equal(merged[0], whole[0])
    assert torch.equal(merged[1], whole[1])


def test_a_neuron_without_contexts_has_no_change() -> None:
    none = torch.full((1, 3), -1)
    assert context_churn(none, none).isnan().all()
    assert context_churn(none, torch.tensor([[4, -1, -1]])).tolist() == [1]


def test_correlation() -> None:
    x, y = torch.randn(2, 20, generator=torch.Generator().manual_seed(0))
    assert pearson(x, y) == pytest.approx(reference.correlation(x.tolist(), y.tolist()), abs=1e-9)
    assert pearson(x, torch.zeros(20)) == 0
    assert math.isnan(pearson(torch.zeros(20), x))


def test_bad_input_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"`activations` must be \(N, n\) and `tokens` \(N,\), got \(2, 3\) and \(3,\)"
    ):
        lookup_sums(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long), 2)
    one, other = (lookup_sums(torch.zeros(1, n), torch.zeros(1, dtype=torch.long), 2) for n in (1, 2))
    with pytest.raises(ValueError, match=r"must be of the same tokens and neurons, got \(2, 1\) and \(2, 2\)"):
        lookup_scores(one, other)
    with pytest.raises(ValueError, match=r"must both be \(n, k\), got \(1, 2\) and \(1, 3\)"):
        context_churn(torch.zeros(1, 2), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"must both be \(N,\), got \(1,\) and \(2,\)"):
        pearson(torch.zeros(1), torch.zeros(2))
