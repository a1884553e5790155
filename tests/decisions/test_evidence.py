"""Plateaus, slowing down, and improvements after them."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_interp.decisions import Curve, improvement, plateau, slowed
from lightning_interp.functional import fit_knees
from tests.decisions.planted import STEPS, Fit, track
from tests.reference.evidence import slow_improvement

# ------------------------------------------------- plateau


@pytest.mark.parametrize(
    ("knees", "slopes", "mode", "expected"),
    [
        ((2.0,), (-2.0, 0.0), "min", 0),
        ((2.0,), (2.0, 0.0), "max", 0),
        ((2.0,), (2.0, 0.0), "min", None),  # never improved
        ((2.0,), (-2.0, -0.05), "min", 0),  # 2 % of what was gained, a decade
        ((2.0,), (-2.0, -0.5), "min", None),  # goes on, more slowly
        ((2.0, 2.8), (-2.0, 0.0, 0.5), "min", 0),  # overfits later
        ((2.0, 2.8), (-2.0, 0.0, -1.0), "min", None),  # a saddle
        ((1.5, 2.5), (0.0, -2.0, 0.0), "min", 1),  # a warm-up at first
        ((1.5, 2.5), (-2.0, -1.0, 0.0), "min", 1),
        ((), (-2.0,), "min", None),
        ((), (0.0,), "min", None),
    ],
)
def test_plateau(knees: tuple, slopes: tuple, mode: str, expected: int | None) -> None:
    assert plateau(track(Fit(knees, slopes), mode)) == expected


def test_a_slope_within_its_noise_is_none() -> None:
    slow = Fit((2.0,), (-2.0, -0.4))
    assert plateau(track(slow, size=0.01)) is None
    assert plateau(track(slow, size=0.3, seed=1)) == 0


def bent(knee: float, slopes: tuple[float, float], size: float, seed: int, mode: str = "max") -> Curve:
    """Readings of a curve with one knee, with a real fit."""
    x = np.log10(STEPS)
    y = slopes[0] * np.minimum(x, knee) + slopes[1] * np.maximum(x - knee, 0)
    y = y + size * np.random.default_rng(seed).standard_normal(len(x))
    return Curve(STEPS, y.tolist(), mode, fit_knees(x, y, intervals=False))


def mirrored(one: Curve) -> Curve:
    values = [-value for value in one.values]
    other = "min" if one.mode == "max" else "max"
    return Curve(one.steps, values, other, fit_knees(np.log10(one.steps), values, intervals=False))


def test_a_smooth_bend_into_a_plateau_is_told_by_its_last_readings() -> None:
    x = np.linspace(1, 3.3, 56)
    steps = [round(10**one * 100) for one in x]
    ends = {}
    for size in range(12, 57):
        y = 3 / (1 + np.exp(8 * (x[:size] - 2.2)))
        one = Curve(steps[:size], y.tolist(), "min", fit_knees(x[:size], y, intervals=False))
        ends[size] = slowed(one) is not None, plateau(one) is not None
    first = {name: min(size for size, both in ends.items() if both[at]) for at, name in enumerate(("slow", "flat"))}
    # It falls at a quarter of its steepest rate at 2.53, and at 5 % of the whole a decade at 2.83: readings 38 and 45.
    assert 36 <= first["slow"] <= 42
    assert 43 <= first["flat"] <= 50
    assert all(flat for size, (_, flat) in ends.items() if size >= first["flat"])


@pytest.mark.parametrize(
    ("knees", "slopes", "mode", "expected"),
    [
        ((2.0,), (-2.0, -0.4), "min", 0),
        ((2.0,), (-2.0, -0.6), "min", None),
        ((2.0,), (2.0, 0.4), "max", 0),
        ((2.0,), (2.0, 0.4), "min", None),
        ((1.5, 2.5), (-0.5, -2.0, -0.4), "min", 1),
        ((1.5, 2.5), (-2.0, -0.4, -0.1), "min", 0),
        ((1.5, 2.5), (-2.0, -0.1, -1.0), "min", None),
        ((), (-2.0,), "min", None),
    ],
)
def test_slowed(knees: tuple, slopes: tuple, mode: str, expected: int | None) -> None:
    assert slowed(track(Fit(knees, slopes), mode)) == expected
    assert slowed(Curve(STEPS, STEPS, mode, None)) is None


# ------------------------------------------------- improvement


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("since", [40.0, 100.0, 700.0])
def test_improvement_is_that_of_the_plain_reference(seed: int, mode: str, since: float) -> None:
    key = bent(2.0, (0.3, 0.2), 0.05, seed)
    key = key if mode == "max" else mirrored(key)
    loss = bent(1.8, (-2.0, 0.0), 0.02, seed + 100, "min")
    for other in (None, loss):
        found = improvement(key, since, other)
        assert (found.gain, found.share, found.p_value) == pytest.approx(slow_improvement(key, since, other), rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_mirror_image_of_a_loss_gains_what_the_loss_gains(seed: int) -> None:
    loss = bent(2.0, (-1.0, -0.1), 0.01, seed, "min")
    alone, beside = improvement(mirrored(loss), 80), improvement(mirrored(loss), 80, loss)
    assert alone.noticeable
    assert beside.share == pytest.approx(0, abs=1e-12)
    assert not beside.noticeable


def test_a_key_that_begins_late_is_compared_with_the_loss_from_there() -> None:
    # Over all its readings the loss is nearly flat by 300; over those from 300 on it makes half of its gains by 390.
    x = np.log10(STEPS)
    fall = np.exp(-6 * (x - x[0]))
    loss = Curve(STEPS, fall.tolist(), "min", fit_knees(x, fall, intervals=False))
    late = [place for place, step in enumerate(STEPS) if step >= 300]
    steps = [STEPS[place] for place in late]

    def key(values: np.ndarray) -> Curve:
        values = values + 1e-4 * np.random.default_rng(0).standard_normal(len(values))
        return Curve(steps, values.tolist(), "max", fit_knees(np.log10(steps), values, intervals=False))

    assert not improvement(key(1 - fall[late] / fall[late].max()), 300, loss).noticeable
    assert improvement(key(x[late]), 300, loss).noticeable


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"noise": 0.3}, False),
        ({"slopes": (0.1, 0.0)}, False),
        ({"slopes": (0.1, -0.3)}, False),
        ({"slopes": (12.0, 0.3)}, False),  # the gain is less than a twentieth of the rise before
    ],
)
def test_what_counts_as_improvement(change: dict, expected: bool) -> None:
    given = {"knees": (2.0,), "slopes": (0.1, 0.3), "noise": 0.01, **change}
    assert improvement(track(Fit(**given), "max", size=0.005), since=100).noticeable is expected


def test_a_rise_that_ends_soon_after_is_an_improvement_however_long_the_run_goes_on() -> None:
    x = np.log10(STEPS)
    y = np.clip(x - 1.8, 0, 0.5) + 0.01 * np.random.default_rng(0).standard_normal(len(x))
    for size in range(STEPS.index(237) + 1, len(STEPS) + 1):
        one = Curve(STEPS[:size], y[:size].tolist(), "max", fit_knees(x[:size], y[:size], intervals=False))
        assert improvement(one, since=75).noticeable


def test_autocorrelation_makes_the_test_more_careful() -> None:
    plain, correlated = (
        improvement(track(Fit((2.0,), (0.1, 0.05), noise=0.04, autocorrelation=rho), "max", size=0.005), 100).p_value
        for rho in (0.0, 0.6)
    )
    assert plain < 0.05 < correlated


def test_improvement_needs_four_readings_and_a_fit() -> None:
    one = track(Fit((2.0,), (0.1, 0.3)), "max")
    assert improvement(one, since=STEPS[-4]) is not None
    assert improvement(one, since=STEPS[-3]) is None
    assert improvement(Curve(one.steps, one.values, "max", None), since=100) is None
