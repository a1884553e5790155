"""Rank correlation within strata and its permutation test, against scipy and every permutation there is."""

from __future__ import annotations

import math
from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from lightning_interp.functional import rank_test, spearman, stratified_spearman


def random(number: int, seed: int) -> Tensor:
    # Few different values, so that there are ties.
    return torch.randint(0, 6, (number,), generator=torch.Generator().manual_seed(seed)).double()


def by_hand(x: list[float], y: list[float], strata: list[int]) -> float:
    """Pearson's correlation of ranks that scipy took within each stratum."""
    u, v = np.zeros(len(x)), np.zeros(len(x))
    for stratum in set(strata):
        members = [at for at, own in enumerate(strata) if own == stratum]
        for ranks, values in ((u, x), (v, y)):
            own = stats.rankdata([values[at] for at in members])
            ranks[members] = (own - own.mean()) / (len(members) + 1)
    return float(u @ v / math.sqrt((u @ u) * (v @ v)))


@pytest.mark.parametrize("seed", range(5))
def test_without_strata_it_is_that_of_scipy_and_of_spearman(seed: int) -> None:
    x, y = random(20, seed), random(20, seed + 100)
    found = float(stratified_spearman(x, y))
    assert found == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found == pytest.approx(spearman(x, y))


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 2)), min_size=4, max_size=15).filter(
        lambda rows: (
            any(a[2] == b[2] and a[0] != b[0] for a in rows for b in rows)
            and any(a[2] == b[2] and a[1] != b[1] for a in rows for b in rows)
        )
    )
)
def test_within_strata_it_is_the_correlation_of_their_ranks(rows: list[tuple[int, int, int]]) -> None:
    x, y, strata = (list(column) for column in zip(*rows, strict=True))
    found = float(stratified_spearman(torch.tensor(x).double(), torch.tensor(y).double(), strata))
    assert found == pytest.approx(by_hand(x, y, strata), abs=1e-12)


def test_levels_of_the_strata_do_not_count() -> None:
    x, y, strata = random(18, 1), random(18, 2), [0] * 6 + [1] * 6 + [2] * 6
    level = torch.tensor(strata) * 100.0
    within = stratified_spearman(x, y, strata)
    assert float(stratified_spearman(x + level, y - level, strata)) == pytest.approx(float(within))
    assert float(stratified_spearman(x + level, y - level)) < -0.8


def test_counts_are_copies() -> None:
    x, y, strata = random(7, 3), random(7, 4), [0, 0, 0, 0, 1, 1, 1]
    counts = torch.tensor([[1, 2, 0, 1, 1, 0, 3], [1] * 7, [0, 0, 0, 3, 0, 0, 1]])
    found = stratified_spearman(x, y, strata, counts)
    for row, value in zip(counts, found, strict=True):
        places = torch.arange(7).repeat_interleave(row)
        alone = stratified_spearman(x[places], y[places], [strata[at] for at in places])
        assert float(value) == pytest.approx(float(alone), nan_ok=True)
    assert math.isnan(found[2])


def test_p_is_the_share_of_all_permutations() -> None:
    x, y = torch.tensor([1.0, 4.0, 2.0, 8.0, 5.0, 7.0]), torch.tensor([2.0, 1.0, 4.0, 6.0, 3.0, 9.0])
    result = rank_test(x, y, permutations=40_000)
    every = [stats.spearmanr(x, [y[at] for at in order]).statistic for order in permutations(range(6))]
    exact = np.mean(np.abs(every) >= abs(result.statistic) - 1e-9)
    assert result.statistic == pytest.approx(stats.spearmanr(x, y).statistic)
    assert result.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 40_000))


def test_p_within_strata_permutes_within_them() -> None:
    x, y, strata = random(7, 5), random(7, 6), [0, 1, 0, 1, 0, 1, 0]
    first, second = [0, 2, 4, 6], [1, 3, 5]
    every = []
    for one, other in product(permutations(first), permutations(second)):
        moved = y.clone()
        moved[first], moved[second] = y[list(one)], y[list(other)]
        every.append(by_hand(x.tolist(), moved.tolist(), strata))
    result = rank_test(x, y, strata, permutations=40_000)
    exact = np.mean(np.abs(every) >= abs(result.statistic) - 1e-9)
    assert result.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 40_000))


def test_blocks_move_as_a_whole() -> None:
    # Three strata of four blocks, in no order.
    strata = [2, 0, 1, 0, 1, 2, 2, 1, 0, 0, 1, 2]
    blocks = list("aabbabcddccd")
    x, y = random(12, 7), random(12, 8)
    at = {(stratum, block): place for place, (stratum, block) in enumerate(zip(strata, blocks, strict=True))}
    assert len(at) == 12
    every = []
    for order in permutations("abcd"):
        moved = y.clone()
        for stratum in range(3):
            for to, source in zip("abcd", order, strict=True):
                moved[at[stratum, to]] = y[at[stratum, source]]
        every.append(by_hand(x.tolist(), moved.tolist(), strata))
    result = rank_test(x, y, strata, blocks, permutations=40_000)
    assert result.statistic == pytest.approx(by_hand(x.tolist(), y.tolist(), strata))
    exact = np.mean(np.abs(every) >= abs(result.statistic) - 1e-9)
    assert result.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 40_000))


def test_dependence_within_blocks_deceives_only_a_test_without_them() -> None:
    """Each block's value is in all of its strata, so that twelve runs are worth four."""
    deceived = honest = 0
    for seed in range(100):
        x, y = (torch.rand(6, generator=torch.Generator().manual_seed(seed + of)).repeat(4) for of in (0, 1000))
        strata, blocks = [s for s in range(4) for _ in range(6)], list(range(6)) * 4
        deceived += rank_test(x, y, strata, permutations=199).p <= 0.05
        honest += rank_test(x, y, strata, blocks, permutations=199).p <= 0.05
    assert honest <= 12  # 5 expected, 4 standard deviations 9
    assert deceived >= 25


def test_without_an_order_there_is_no_test() -> None:
    x = torch.tensor([1.0, 1.0, 2.0, 2.0])
    assert math.isnan(stratified_spearman(x, torch.arange(4.0), [0, 0, 1, 1]))
    assert all(map(math.isnan, rank_test(x, torch.arange(4.0), [0, 0, 1, 1])))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: stratified_spearman(x, x[:3]), "must be of one length"),
        (lambda x: stratified_spearman(x, torch.tensor([1.0, math.nan, 2.0, 3.0])), "`y` has 1 NaN of 4 values"),
        (lambda x: stratified_spearman(x, x, [0, 1]), "`strata` has 2 entries for 4 values"),
        (lambda x: stratified_spearman(x, x, None, torch.ones(2, 3)), r"`counts` must have shape \(R, 4\), got \(2, 3"),
        (lambda x: rank_test(x, x, permutations=0), "`permutations` must be at least 1"),
        (lambda x: rank_test(x, x, [0, 0, 1, 1], [0]), "`blocks` has 1 entries for 4 values"),
        (lambda x: rank_test(x, x, [0, 0, 1, 1], [0, 1, 0, 2]), "`blocks` must hold one value of every stratum each"),
        (lambda x: rank_test(x, x, [0, 0, 1, 1], [0, 0, 1, 1]), "`blocks` must hold one value of every stratum each"),
    ],
)
def test_bad_input_is_said(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.arange(4.0))
