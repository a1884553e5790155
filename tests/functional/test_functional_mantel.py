"""Rank correlations against scipy, and Mantel's tests against loops and under the null."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from reference import task_space as plain
from scipy import stats

from lightning_interp.functional import mantel, matrix_correlation, partial_mantel, same_group, spearman
from lightning_interp.functional.rank_correlation import average_ranks


def symmetric(generator: torch.Generator, tasks: int) -> torch.Tensor:
    """Distances of random points, whose entries depend on one another as those of a space do."""
    points = torch.randn(tasks, 3, generator=generator, dtype=torch.float64)
    return torch.linalg.vector_norm(points[:, None] - points, dim=-1)


@given(st.lists(st.integers(0, 6), min_size=2, max_size=30), st.data())
def test_ranks_and_their_correlation_are_those_of_scipy(x: list[int], data: st.DataObject) -> None:
    y = data.draw(st.lists(st.floats(-3, 3), min_size=len(x), max_size=len(x)))
    assert average_ranks(torch.tensor(x)).tolist() == stats.rankdata(x).tolist()
    found = spearman(torch.tensor(x), torch.tensor(y, dtype=torch.float64))
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


@given(seed=st.integers(0, 10**6), tasks=st.integers(3, 9))
def test_matrices_correlate_as_their_upper_triangles(seed: int, tasks: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = symmetric(generator, tasks), symmetric(generator, tasks)
    expected = stats.spearmanr(plain.upper(a.numpy()), plain.upper(b.numpy())).statistic
    assert matrix_correlation(a, b) == pytest.approx(expected, abs=1e-12)
    assert matrix_correlation(a, a.exp()) == pytest.approx(1)
    order = torch.randperm(tasks, generator=generator)
    assert matrix_correlation(a[order][:, order], b[order][:, order]) == pytest.approx(expected, abs=1e-12)
    assert matrix_correlation(a.fill_diagonal_(math.nan), b) == pytest.approx(expected, abs=1e-12)


@given(seed=st.integers(0, 10**6), tasks=st.integers(5, 8), noise=st.sampled_from([0.0, 0.5, 50.0]))
def test_tests_are_those_of_the_loops(seed: int, tasks: int, noise: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, control = symmetric(generator, tasks), symmetric(generator, tasks)
    b = a + noise * symmetric(generator, tasks)
    found = mantel(a, b, permutations=60, seed=seed)
    assert found == pytest.approx(plain.mantel(a.numpy(), b.numpy(), 60, seed), abs=1e-12)
    found = partial_mantel(a, b, control, permutations=60, seed=seed)
    three = [matrix.numpy() for matrix in (a, b, control)]
    assert found == pytest.approx(plain.partial_mantel(*three, 60, seed), abs=1e-9)
    assert found.statistic == pytest.approx(plain.partial(*(plain.upper(matrix) for matrix in three)), abs=1e-9)


@given(seed=st.integers(0, 10**6), tasks=st.integers(4, 7))
def test_asymmetric_matrices_use_both_triangles(seed: int, tasks: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, tasks, tasks, generator=generator)
    apart = ~torch.eye(tasks, dtype=torch.bool)
    expected = stats.spearmanr(a[apart].numpy(), b[apart].numpy()).statistic
    assert mantel(a, b, permutations=9).statistic == pytest.approx(expected, abs=1e-12)


def test_ties_with_the_observed_value_count() -> None:
    # Two groups of two: of 24 orders 8 give the hypothesis back, so p is 1/3 whatever the rounding.
    hypothesis = same_group(["a", "a", "b", "b"])
    found = mantel(hypothesis, hypothesis, permutations=20_000)
    assert found.statistic == pytest.approx(1)
    assert found.p == pytest.approx(1 / 3, abs=0.015)
    # Batches of permutations are one stream: the first 999 of 1,998 are those of 999.
    half = mantel(hypothesis, hypothesis, permutations=999)
    assert half == mantel(hypothesis, hypothesis, permutations=999)
    assert mantel(hypothesis, hypothesis, permutations=999, seed=1).p != half.p


def test_p_is_uniform_without_a_relation_and_small_with_one() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = same_group([i // 4 for i in range(16)])
    plain_p, group_p, partial_p, confounded_p, planted_p = [], [], [], [], []
    for seed in range(300):
        a, b, control = (symmetric(generator, 16) for _ in range(3))
        plain_p.append(mantel(a, b, 199, seed).p)
        group_p.append(mantel(a, groups, 199, seed).p)
        # Both follow the control and share nothing else.
        partial_p.append(partial_mantel(a + 2 * control, b + 2 * control, control, 199, seed).p)
        if seed < 40:
            confounded_p.append(mantel(a + 2 * control, b + 2 * control, 199, seed).p)
            planted_p.append(partial_mantel(a + 2 * control, b + a + control, control, 199, seed).p)
    for p in (plain_p, group_p, partial_p):
        assert stats.kstest(p, "uniform").pvalue > 0.01
        assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / 300))
    assert np.mean(np.array(confounded_p) <= 0.05) > 0.9
    assert np.mean(np.array(planted_p) <= 0.05) > 0.8


def test_67_tasks_take_well_under_two_seconds() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = symmetric(generator, 67), symmetric(generator, 67)
    start = time.process_time()
    found = mantel(a, b + 0.5 * a)
    assert time.process_time() - start < 2
    assert found.p == 1e-4


def test_no_stream_is_moved_and_signs_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    a = symmetric(generator, 9)
    before = torch.random.get_rng_state()
    assert mantel(a, -a, permutations=99).p > 0.9
    assert torch.equal(torch.random.get_rng_state(), before)


@given(seed=st.integers(0, 10**6))
def test_tasks_may_come_in_any_order(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b, control = (symmetric(generator, 10) for _ in range(3))
    order = torch.randperm(10, generator=generator)
    assume(order.tolist() != list(range(10)))
    moved = [matrix[order][:, order] for matrix in (a, b, control)]
    assert mantel(*moved[:2], 19).statistic == pytest.approx(mantel(a, b, 19).statistic)
    assert partial_mantel(*moved, 19).statistic == pytest.approx(partial_mantel(a, b, control, 19).statistic)


SPACE = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 3.0], [2.0, 3.0, 0.0]])
HOLES = torch.tensor([[0.0, math.nan, 2.0], [math.nan, 0.0, 3.0], [2.0, 3.0, math.nan]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mantel(HOLES, SPACE), "`a` has 2 NaN of 6 values off its diagonal"),
        (lambda: partial_mantel(SPACE, SPACE, HOLES), "`control` has 2 NaN of 6"),
        (lambda: matrix_correlation(SPACE, HOLES), "`b` has 2 NaN of 6"),
        (lambda: average_ranks(torch.tensor([1.0, math.nan])), "`x` has 1 NaN of 2 values"),
        (lambda: mantel(SPACE, torch.zeros(4, 4)), r"`b` must have the shape of `a`, \(3, 3\), got \(4, 4\)"),
        (lambda: mantel(SPACE[:2], SPACE[:2]), r"`a` must be square .* got shape \(2, 3\)"),
        (lambda: mantel(SPACE[:2, :2], SPACE[:2, :2]), "`a` must have at least 3 tasks to permute, got 2"),
        (lambda: mantel(SPACE, torch.eye(3)), "`b` is 0.0 everywhere off its diagonal"),
        (lambda: mantel(SPACE, SPACE, permutations=0), "`permutations` must be at least 1, got 0"),
        (lambda: partial_mantel(SPACE, SPACE.T, -SPACE), "`control` orders the pairs as `a` does, or in reverse"),
        (lambda: matrix_correlation(SPACE, torch.eye(2)), r"one shape, got \(3, 3\) and \(2, 2\)"),
        (lambda: spearman(torch.ones(2), torch.ones(3)), r"of one length, got shapes \(2,\) and \(3,\)"),
        (lambda: average_ranks(torch.ones(2, 2)), r"one dimension, got shape \(2, 2\)"),
    ],
)
def test_bad_input_is_said(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
