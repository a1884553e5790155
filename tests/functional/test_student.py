"""Student's distribution against scipy and by its own laws."""

from __future__ import annotations

import math
import random

import pytest

from lightning_interp.functional import mean_interval, t_quantile, t_upper_tail


@pytest.mark.parametrize("freedom", [1, 2, 3.5, 10, 57, 1000])
@pytest.mark.parametrize("t", [-8.0, -1.0, 0.0, 0.3, 2.0, 12.7, 60.0])
def test_upper_tail_is_that_of_scipy(t: float, freedom: float) -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    assert t_upper_tail(t, freedom) == pytest.approx(stats.t.sf(t, freedom), abs=1e-9)


@pytest.mark.parametrize(
    ("tail", "freedom", "expected"), [(0.025, 1, 12.706), (0.025, 4, 2.776), (0.025, 10, 2.228), (0.05, 30, 1.697)]
)
def test_quantile_is_that_of_the_printed_tables(tail: float, freedom: float, expected: float) -> None:
    assert t_quantile(tail, freedom) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("freedom", [1, 2.5, 40])
def test_quantile_inverts_the_tail(freedom: float) -> None:
    assert t_upper_tail(t_quantile(0.01, freedom), freedom) == pytest.approx(0.01, abs=1e-9)


def test_tail_of_what_is_not_finite() -> None:
    assert t_upper_tail(math.inf, 3) == 0.0
    assert t_upper_tail(-math.inf, 3) == 1.0
    assert t_upper_tail(math.nan, 3) == 1.0


def test_interval_covers_the_mean_at_its_level() -> None:
    source = random.Random(0)
    runs, covered = 2000, 0
    for _ in range(runs):
        mean, half = mean_interval([source.gauss(3.0, 2.0) for _ in range(4)], level=0.9)
        covered += abs(mean - 3.0) <= half
    # Three standard errors of a share of .9 of 2,000.
    assert covered / runs == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: t_quantile(0.5, 3), "`tail` must lie between 0 and 0.5"),
        (lambda: t_quantile(0.025, 0), "`freedom` must be at least 1"),
        (lambda: mean_interval([1.0]), "`values` must be at least 2"),
    ],
)
def test_bad_input_is_said(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
