"""Bootstrap intervals against every possible resample and against scipy."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from lightning_interp.functional import bootstrap_interval

VALUES = torch.tensor([0.3, 1.7, -0.4, 2.2], dtype=torch.float64)


def mean(counts: Tensor) -> Tensor:
    return counts @ VALUES / counts.sum(1)


def test_ends_are_quantiles_over_all_resamples() -> None:
    means = [np.mean(drawn) for drawn in product(VALUES.tolist(), repeat=4)]
    low, high = bootstrap_interval(mean, range(4), draws=20_000, level=0.8)
    # A quantile of few different means: the share below each end must be right.
    assert np.mean(np.array(means) < low - 1e-9) <= 0.11
    assert np.mean(np.array(means) <= low + 1e-9) >= 0.09
    assert np.mean(np.array(means) > high + 1e-9) <= 0.11
    assert np.mean(np.array(means) >= high - 1e-9) >= 0.09


def test_is_that_of_scipy() -> None:
    x = torch.randn(30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    low, high = bootstrap_interval(lambda counts: counts @ x / counts.sum(1), range(30), draws=20_000)
    theirs = stats.bootstrap((x.numpy(),), np.mean, n_resamples=20_000, method="percentile", random_state=0)
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.02)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.02)


def test_clusters_are_drawn_whole() -> None:
    clusters = ["a", "b", "a", "c", "b", "a"]
    seen = []

    def look(counts: Tensor) -> Tensor:
        seen.append(counts)
        return counts[:, 0]

    bootstrap_interval(look, clusters, draws=500)
    (counts,) = seen
    for members in ([0, 2, 5], [1, 4]):
        assert (counts[:, members] == counts[:, members[:1]]).all()
    # As many clusters as there are, whatever their size.
    assert (counts[:, [0, 1, 3]].sum(1) == 3).all()
    # Each is drawn once on average: 500 draws of variance 2/3 have a standard error of .037.
    assert counts[:, [0, 1, 3]].mean(0).tolist() == pytest.approx([1, 1, 1], abs=0.15)


def test_copies_of_the_values_do_not_narrow_a_clustered_interval() -> None:
    def twice(counts: Tensor) -> Tensor:
        return counts @ torch.cat([VALUES, VALUES]) / counts.sum(1)

    assert bootstrap_interval(twice, [*range(4), *range(4)]) == pytest.approx(bootstrap_interval(mean, range(4)))


def test_draws_without_a_value_are_left_out_and_most_must_have_one() -> None:
    def now_and_then(share: float) -> tuple[float, float]:
        def statistic(counts: Tensor) -> Tensor:
            found = mean(counts)
            found[: int(share * len(found))] = math.nan
            return found

        return bootstrap_interval(statistic, range(4), draws=1000)

    assert all(map(math.isfinite, now_and_then(0.4)))
    assert all(map(math.isnan, now_and_then(0.6)))


def test_seed_decides_and_the_global_stream_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = bootstrap_interval(mean, range(4), draws=50)
    assert torch.equal(torch.get_rng_state(), before)
    assert bootstrap_interval(mean, range(4), draws=50) == first
    assert bootstrap_interval(mean, range(4), draws=50, seed=1) != first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": [1, 1]}, "`clusters` must hold at least 2 different ones, got \\[1\\]"),
        ({"clusters": range(4), "draws": 0}, "`draws` must be at least 1, got 0"),
        ({"clusters": range(4), "level": 1.0}, "`level` must lie between 0 and 1, got 1.0"),
    ],
)
def test_bad_input_is_said(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(mean, **options)
