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
from lightning_interp.tasks import grammar_tasks, lexical_overlap, phenomenon_hypothesis


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


@given(seed=st.integers(0, 10**6), tasks=st.sampled_from([5, 8, 10, 13, 17]), noise=st.sampled_from([0.0, 0.5, 50.0]))
def test_tests_are_those_of_the_loops(seed: int, tasks: int, noise: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, control = symmetric(generator, tasks), symmetric(generator, tasks)
    b = a + noise * symmetric(generator, tasks)
    found = mantel(a, b, permutations=60, seed=seed)
    assert found == pytest.approx(plain.mantel(a.numpy(), b.numpy(), 60, seed), abs=1e-12)
    found = partial_mantel(a, b, control, permutations=60, seed=seed)
    three = [matrix.numpy() for matrix in (a, b, control)]
    assert found == pytest.approx(plain.partial_mantel(*three, 60, seed), abs=1e-9)


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


def wordy_spaces(kind: str, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A space of 30 tasks that is words and noise, the phenomena that these tasks are of, and the overlap of words."""
    phenomenon = torch.arange(30) // 5
    same = same_group(phenomenon.tolist())

    def noise() -> torch.Tensor:
        draws = torch.randn(30, 30, generator=generator, dtype=torch.float64)
        return (draws + draws.T) / 2**0.5

    overlap = 0.45 + 0.14 * same + 0.05 * noise()
    if kind == "words":  # sums of the vectors of 60 words, half of them of the phenomenon
        uses = torch.zeros(30, 300, dtype=torch.float64)
        for task in range(30):
            own = 50 * phenomenon[task] + torch.randperm(100, generator=generator)[:30]
            uses[task, torch.cat([own % 300, torch.randperm(300, generator=generator)[:30]])] = 1
        shared = uses @ uses.T
        overlap = shared / (uses.sum(1) + uses.sum(1)[:, None] - shared)
        vectors = uses @ torch.randn(300, 64, generator=generator, dtype=torch.float64)
        return vectors @ vectors.T, same, overlap
    spaces = {
        "a line": lambda: 2 * overlap + 0.2 * noise(),
        "exponential": lambda: (8 * overlap).exp() + 20 * noise(),
        "exponential of noise too": lambda: (10 * overlap + noise()).exp(),
        "logistic": lambda: torch.sigmoid(20 * (overlap - 0.5)) + 0.2 * noise(),
        "phenomena too": lambda: 2 * overlap + 0.15 * same + 0.2 * noise(),
    }
    return spaces[kind](), same, overlap


@pytest.mark.parametrize("kind", ["a line", "exponential", "exponential of noise too", "logistic", "words"])
def test_nothing_is_left_of_a_space_that_is_words_and_noise(kind: str) -> None:
    generator = torch.Generator().manual_seed(3)
    found = [partial_mantel(*wordy_spaces(kind, generator), 99, seed) for seed in range(200)]
    assert np.mean([one.p <= 0.05 for one in found]) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)
    statistics = np.array([one.statistic for one in found])
    assert abs(statistics.mean()) < 0.015


def test_what_phenomena_add_to_words_is_found() -> None:
    generator = torch.Generator().manual_seed(3)
    found = [partial_mantel(*wordy_spaces("phenomena too", generator), 99, seed) for seed in range(60)]
    assert np.mean([one.p <= 0.05 for one in found]) > 0.8


def test_nothing_is_left_of_the_grammar_s_own_overlaps() -> None:
    tasks = grammar_tasks(32)
    overlap, same = lexical_overlap(tasks), phenomenon_hypothesis(tasks)
    generator = torch.Generator().manual_seed(4)
    spread = overlap[~torch.eye(len(tasks), dtype=torch.bool)].std()
    for share in (0.3, 1.0, 3.0):
        found = []
        for seed in range(100):
            draws = torch.randn(len(tasks), len(tasks), generator=generator, dtype=torch.float64)
            space = overlap + share * spread * (draws + draws.T) / 2**0.5
            found.append(partial_mantel(space, same, overlap, 99, seed))
        assert np.mean([one.p <= 0.05 for one in found]) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 100)
        assert abs(np.mean([one.statistic for one in found])) < 0.015


def test_a_control_of_few_values_is_taken_out_whole() -> None:
    # With 0 and 1 the spline is a line: what is left is the correlation within the two groups of pairs.
    generator = torch.Generator().manual_seed(5)
    same = same_group([i // 4 for i in range(16)])
    a = symmetric(generator, 16)
    off = ~torch.eye(16, dtype=torch.bool)
    ranks = torch.from_numpy(stats.rankdata(a[off].numpy()))
    within = torch.stack([same[off], 1 - same[off]]).bool()
    for group in within:
        ranks[group] -= ranks[group].mean()
    b = symmetric(generator, 16)
    other = torch.from_numpy(stats.rankdata(b[off].numpy()))
    for group in within:
        other[group] -= other[group].mean()
    expected = float(ranks @ other / ranks.norm() / other.norm())
    assert partial_mantel(a, b, same, 9).statistic == pytest.approx(expected, abs=1e-9)


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
        (lambda: partial_mantel(SPACE, SPACE.T, -SPACE), "`control` explains the order of the pairs in `a`: nothing"),
        (lambda: partial_mantel(SPACE, SPACE, (SPACE - 1).log()), "`control` must be finite .* got 2 infinite values"),
        (lambda: matrix_correlation(SPACE, torch.eye(2)), r"one shape, got \(3, 3\) and \(2, 2\)"),
        (lambda: spearman(torch.ones(2), torch.ones(3)), r"of one length, got shapes \(2,\) and \(3,\)"),
        (lambda: average_ranks(torch.ones(2, 2)), r"one dimension, got shape \(2, 2\)"),
    ],
)
def test_bad_input_is_said(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
