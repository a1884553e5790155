"""Acquisition, forgetting, agreement of orders, ranks of answers, frequency bands: against references and scipy."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference.acquisition import alike, as_bad_as, concordance, first_stay, ranked

from lightning_interp.functional import (
    acquisition_order,
    acquisition_step,
    binomial_se,
    design_effect,
    effective_count,
    forgetting_p,
    frequency_bands,
    kendall_w,
    ranking_measures,
    reached,
    sample_sums,
)

NAN = float("nan")
LEVELS = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=8)


# ------------------------------------------------- acquisition


@given(LEVELS, st.sampled_from([0.1, 0.25, 0.6, 1.0]), st.booleans(), st.data())
def test_reached_is_the_reference_and_between_its_readings(
    values: list[float], level: float, stays: bool, data: st.DataObject
) -> None:
    steps = sorted(data.draw(st.sets(st.integers(0, 10_000), min_size=len(values), max_size=len(values))))
    found = reached(steps, values, level, stays)
    expected = first_stay(steps, values, level, stays)
    assert found.high == pytest.approx(expected, nan_ok=True)
    if not math.isnan(expected):
        assert found.low <= found.step * (1 + 1e-12)
        assert found.step <= found.high * (1 + 1e-12)
        assert found.low == (steps[0] if found.high == steps[0] else steps[steps.index(int(found.high)) - 1])


def test_the_crossing_is_on_a_logarithmic_scale() -> None:
    # Half way between 9 and 999 on the scale of log(1 + step) is 99.
    assert reached([9, 999], [0.0, 1.0], 0.5).step == pytest.approx(99.0)
    assert reached([0, 99], [0.0, 1.0], 0.5).step == pytest.approx(9.0)
    # A straight line over log(1 + step) is crossed where it is, wherever readings were taken.
    for steps in ([0, 7, 60, 4000], [0, 1, 2, 1000, 5000]):
        assert reached(steps, [math.log1p(step) for step in steps], 3.0).step == pytest.approx(math.expm1(3.0))


def test_share_of_the_final_level_above_chance() -> None:
    steps, values = [1, 2, 4, 8], [0.5, 0.9, 0.94, 1.0]
    assert acquisition_step(steps, values).high == 2
    assert acquisition_step(steps, values, chance=0.5).high == 8
    assert acquisition_step(steps, values, share=0.8, chance=0.5).high == 2
    assert math.isnan(acquisition_step(steps, values, final=2.0).step)
    assert math.isnan(acquisition_step(steps, [0.5, 0.4, 0.9, 0.5], chance=0.5).step)
    assert acquisition_step([1, 2], [0.3, 0.3], share=1.0).high == 1


def test_what_falls_again_counts_from_when_it_came_back() -> None:
    steps, values = [1, 2, 3, 4, 5], [0.0, 1.0, 0.2, 1.0, 1.0]
    assert acquisition_step(steps, values).high == 4
    assert acquisition_step(steps, values, final=max(values), stays=False).high == 2
    # A reading without a value says nothing.
    assert acquisition_step(steps, [0.0, 1.0, NAN, 1.0, NAN]).high == 2


def test_order_has_the_earliest_first_and_the_never_last() -> None:
    steps = [1, 10, 100]
    curves = {"never": (steps, [0.0] * 3), "late": (steps, [0.0, 0.1, 0.9]), "early": (steps, [0.1, 0.8, 0.7])}
    found = acquisition_order(curves)
    assert [one.name for one in found] == ["early", "late", "never"]
    assert found[0][2:] == (0.1, 0.8, 0.7)
    assert math.isnan(found[2].acquired.step)
    by_name = acquisition_order(curves, chance={"never": 0.0, "late": 0.0, "early": 0.7})
    assert by_name[0].name == "late"
    assert acquisition_order({"empty": ([], [])})[0].name == "empty"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reached([1], [0.1, 0.2], 0.1), "1 numbers and `values` 2"),
        (lambda: reached([2, 1], [0.1, 0.2], 0.1), r"`steps` is \[2, 1\]; expected increasing"),
        (lambda: reached([-1, 1], [0.1, 0.2], 0.1), "expected increasing steps from 0 on"),
        (lambda: acquisition_step([1], [0.1], share=0.0), "`share` must lie above 0 and not above 1, got 0.0"),
        (lambda: acquisition_order({"a": ([1], [1.0])}, chance={"b": 0.5}), r"no level for 'a'; it has \['b'\]"),
        (lambda: forgetting_p(3, 2, 1, 1), "`hits` must be between 0 and its count, at least 1; got 3 of 2"),
        (lambda: forgetting_p(0, 1, 0, 0), "`best_hits` must be between 0 and its count"),
        (lambda: forgetting_p(1, 2, 1, 2, design=0.5), "`design` must be at least 1, got 0.5"),
        (lambda: forgetting_p(1, 2, 1, 2, best_design=NAN), "`best_design` must be at least 1, got nan"),
        (lambda: design_effect(3, 2, 1, 4, 2), "`hits` must be between 0 and `count`, at least 1; got 3 of 2"),
        (lambda: effective_count(torch.ones(2), "abc"), "`right` and `samples` must be as many, at least one, got 2"),
        (lambda: kendall_w(torch.zeros(1, 3)), r"at least 2 of each, got shape \(1, 3\)"),
        (lambda: kendall_w(torch.tensor([[1.0, NAN], [1.0, 2.0]])), "`values` has 1 NaN"),
        (lambda: kendall_w(torch.zeros(2, 3), permutations=0), "`permutations` must be at least 1"),
        (lambda: binomial_se([], []), "at least one, got 0 and 0"),
        (lambda: binomial_se([1.5], [3]), "got 1.5 of 3"),
        (lambda: frequency_bands(torch.tensor([1]), 0), "`bands` must be at least 1, got 0"),
        (lambda: frequency_bands(torch.tensor([0, 0]), 2), "not all 0"),
        (lambda: ranking_measures(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([[True, False]])), "two cand"),
        (lambda: ranking_measures(torch.zeros(2), torch.tensor([0])), r"must be \(N, C\)"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# ------------------------------------------------- forgetting


@given(st.data())
def test_forgetting_is_fishers_exact_test(data: st.DataObject) -> None:
    n, m = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
    h, g = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    found = forgetting_p(h, n, g, m)
    assert found == pytest.approx(as_bad_as(h, n, g, m), rel=1e-9)
    expected = scipy.stats.fisher_exact([[h, n - h], [g, m - g]], alternative="less").pvalue
    assert found == pytest.approx(expected, rel=1e-9)


def test_forgetting_at_large_counts() -> None:
    expected = scipy.stats.hypergeom.cdf(89_000, 200_000, 179_400, 100_000)
    assert forgetting_p(89_000, 100_000, 90_400, 100_000) == pytest.approx(expected, rel=1e-6)
    # One mistake is none after a perfect reading.
    assert forgetting_p(99, 100, 100, 100) == pytest.approx(0.5)


def test_the_level_holds_where_nothing_is_forgotten() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(2000, 2, 40, generator=generator) < 0.8
    p = [forgetting_p(int(now.sum()), 40, int(best.sum()), 40) for now, best in draws]
    assert sum(one < 0.05 for one in p) / len(p) < 0.05


@given(st.lists(st.lists(st.booleans(), max_size=6), min_size=1, max_size=8).filter(any))
def test_the_design_effect_is_that_of_the_analysis_of_variance(samples: list[list[bool]]) -> None:
    hits, counts = (torch.tensor([float(f(one)) for one in samples]) for f in (sum, len))
    # In two batches, with another class beside it.
    both = torch.stack([hits.double(), hits.double()], 1), torch.stack([counts.double(), counts.double()], 1)
    sums = sum(sample_sums(*(one[part] for one in both)) for part in (slice(0, 3), slice(3, None)))
    found = design_effect(float(hits.sum()), float(counts.sum()), *sums[1].tolist())
    assert found == pytest.approx(alike(samples), rel=1e-6)
    if max(counts) == 1:
        assert found == 1.0


def test_the_design_effect_of_planted_correlations() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(1, 40, (4000,), generator=generator).double()
    size = float(counts.square().sum() / counts.sum())
    for rho, wanted in ((0.0, 1.0), (0.2, 1 + 0.2 * (size - 1)), (1.0, size)):
        # An answer is that of its sample with probability √ρ, so that both of two are with probability ρ.
        one = torch.rand(4000, 1, generator=generator) < 0.7
        own = torch.rand(4000, 40, generator=generator) < 0.7
        common = torch.rand(4000, 40, generator=generator) < rho**0.5
        right = torch.where(common, one, own)
        hits = (right & (torch.arange(40) < counts[:, None])).sum(1).double()
        found = design_effect(float(hits.sum()), float(counts.sum()), *sample_sums(hits, counts).tolist())
        assert found == pytest.approx(wanted, rel=0.06, abs=0.2), rho


def test_the_level_holds_where_positions_of_a_sample_are_alike() -> None:
    generator = torch.Generator().manual_seed(0)

    def rates(samples: int, shared: float) -> tuple[float, float]:
        """How often two readings at one level seem to differ, with and without regard to samples of 49 positions."""
        one = torch.rand(600, 2, samples, 1, generator=generator) < 0.7
        own = torch.rand(600, 2, samples, 49, generator=generator) < 0.7
        common = torch.rand(600, 2, samples, 49, generator=generator) < shared
        hits = torch.where(common, one, own).sum(-1).double()
        counts = torch.full_like(hits[0, 0], 49.0)
        found = []
        for now, best in hits:
            right = int(now.sum()), int(best.sum())
            number = samples * 49
            designs = [design_effect(float(h.sum()), number, *sample_sums(h, counts).tolist()) for h in (now, best)]
            plain = forgetting_p(right[0], number, right[1], number)
            found.append((plain, forgetting_p(right[0], number, right[1], number, *[max(designs)] * 2)))
        return tuple(sum(one < 0.05 for one in p) / len(p) for p in zip(*found, strict=True))

    for samples, shared in ((40, 1.0), (40, 0.5), (5, 0.5)):
        plain, minded = rates(samples, shared)
        assert plain > 0.25
        assert minded < 0.06
    # Of positions each of which is for itself, some power is lost.
    plain, minded = rates(40, 0.0)
    assert 0.0 < minded <= plain < 0.06
    # A real fall is seen all the same.
    alike_now, alike_best = (torch.tensor([49.0] * k + [0.0] * (40 - k)).double() for k in (12, 32))
    design = max(
        design_effect(float(h.sum()), 1960, *sample_sums(h, torch.full((40,), 49.0).double()).tolist())
        for h in (alike_now, alike_best)
    )
    assert design == pytest.approx(49)
    assert forgetting_p(588, 1960, 1568, 1960, design, design) == pytest.approx(as_bad_as(12, 40, 32, 40))


def test_a_standard_error_of_answers_that_come_in_groups_is_the_spread_of_their_share() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = [group for group in range(60) for _ in range(1 + group % 7)]
    one = torch.rand(1500, 60, generator=generator)[:, groups] < 0.7
    own = torch.rand(1500, len(groups), generator=generator) < 0.7
    right = torch.where(torch.rand(1500, len(groups), generator=generator) < 0.8, one, own).double()
    shares = right.mean(1).tolist()
    true = float(right.mean(1).std())
    plain = [binomial_se([share], [len(groups)]) for share in shares]
    minded = [
        binomial_se([share], [effective_count(answers, groups)]) for share, answers in zip(shares, right, strict=True)
    ]
    assert sum(plain) / 1500 < 0.6 * true
    assert 0.93 * true < sum(minded) / 1500 < 1.07 * true


# ------------------------------------------------- agreement of orders


@given(st.data())
def test_concordance_is_the_reference(data: st.DataObject) -> None:
    judges, things = data.draw(st.integers(2, 4)), data.draw(st.integers(2, 6))
    level = st.sampled_from([1.0, 2.0, 3.0, 4.0, math.inf])
    rows = data.draw(st.lists(st.lists(level, min_size=things, max_size=things), min_size=judges, max_size=judges))
    found = kendall_w(torch.tensor(rows), permutations=9)
    if all(len(set(row)) == 1 for row in rows):
        assert math.isnan(found.w)
    else:
        assert found.w == pytest.approx(concordance(rows), abs=1e-12)
        assert -1e-12 <= found.w <= 1 + 1e-12
        assert 0 < found.p <= 1


def test_concordance_is_the_mean_of_spearmans_without_ties() -> None:
    rows = torch.rand(4, 9, generator=torch.Generator().manual_seed(1))
    pairs = [scipy.stats.spearmanr(rows[i], rows[j]).statistic for i in range(4) for j in range(i)]
    assert kendall_w(rows).w == pytest.approx((1 + 3 * sum(pairs) / len(pairs)) / 4)


def test_concordance_and_its_p_are_those_of_friedmans_test() -> None:
    rows = torch.rand(6, 8, generator=torch.Generator().manual_seed(2)) + torch.arange(8) / 14
    found = kendall_w(rows, permutations=9999)
    friedman = scipy.stats.friedmanchisquare(*rows.T.numpy())
    assert found.w == pytest.approx(friedman.statistic / (6 * 7))
    assert found.p == pytest.approx(friedman.pvalue, abs=0.02)
    assert kendall_w(rows, permutations=99) == kendall_w(rows, permutations=99)


def test_the_random_streams_are_not_read() -> None:
    before = torch.get_rng_state()
    kendall_w(torch.rand(3, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(before, torch.get_rng_state())


# ------------------------------------------------- ranks of answers


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0]), min_size=2, max_size=6), st.data())
def test_ranks_are_means_over_the_orders_that_scores_allow(scores: list[float], data: st.DataObject) -> None:
    answer = data.draw(st.integers(0, len(scores) - 1))
    # Entries that are no candidates change nothing, whatever their score.
    table = torch.tensor([[9.0, *scores, NAN]])
    valid = torch.tensor([[False, *[True] * len(scores), False]])
    found = ranking_measures(table, torch.tensor([answer + 1]), valid)
    assert [float(one) for one in found] == pytest.approx(ranked(scores, answer), abs=1e-12)


def test_ranks_without_ties_are_exact_and_nan_stays_in_its_row() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0], [NAN, 1.0, 2.0], [1.0, 3.0, -math.inf]])
    found = ranking_measures(scores, torch.tensor([2, 1, 1]))
    assert found.reciprocal_rank.tolist() == pytest.approx([0.5, NAN, 1.0], nan_ok=True, abs=0)
    assert found.first.tolist() == pytest.approx([0.0, NAN, 1.0], nan_ok=True, abs=0)
    assert found.margin.tolist() == pytest.approx([-1.0, NAN, 2.0], nan_ok=True, abs=0)


# ------------------------------------------------- shares and bands


def test_standard_errors_are_those_of_drawn_answers() -> None:
    draws = torch.rand(20_000, 30, generator=torch.Generator().manual_seed(0))
    means = ((draws[:, :20] < 0.9).double().mean(1) + (draws[:, 20:] < 0.4).double().mean(1)) / 2
    # The answers that are added matter less the more there are.
    assert binomial_se([0.9, 0.4], [20, 10]) == pytest.approx(float(means.std()), rel=0.1)
    draws = torch.rand(2000, 5000, generator=torch.Generator().manual_seed(0)) < 0.9
    assert binomial_se([0.9], [5000]) == pytest.approx(float(draws.double().mean(1).std()), rel=0.04)


@pytest.mark.parametrize(("true", "count"), [(0.98, 100), (0.99, 60), (0.95, 40), (0.5, 200)])
def test_two_standard_errors_hold_the_truth_where_nearly_all_is_right(true: float, count: int) -> None:
    draws = torch.rand(4000, count, generator=torch.Generator().manual_seed(1)) < true
    right, often = draws.sum(1).unique(return_counts=True)
    held = [abs(int(k) / count - true) <= 1.96 * binomial_se([int(k) / count], [count]) for k in right]
    # Without the answers that are added: 87 % at .98 of 100, 45 % at .99 of 60.
    assert float((often * torch.tensor(held)).sum() / 4000) >= 0.92
    assert binomial_se([1.0], [count]) == pytest.approx(binomial_se([0.0], [count]))
    assert binomial_se([1.0], [count]) > 1 / count


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(1, 6))
def test_bands_hold_equal_shares_of_the_text_in_order_of_frequency(counts: list[int], bands: int) -> None:
    if not any(counts):
        counts = [*counts, 1]
    found = frequency_bands(torch.tensor(counts), bands)
    assert found.min() >= 0
    assert found.max() < bands
    for word, count in enumerate(counts):
        assert all(found[word] >= found[other] for other, more in enumerate(counts) if more > count)
        assert count or found[word] == bands - 1
    # A border lies in the middle of a word at most: a band's share is off by half of the words at both its ends.
    for band in range(bands):
        share = sum(count for word, count in enumerate(counts) if found[word] == band)
        assert abs(share - sum(counts) / bands) <= max(counts)
