"""Decisions from readings alone: plateaus, improvements, templates, confirmation, patience."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning.callbacks import EarlyStopping
from scipy import stats

from lightning_interp.functional import fit_knees
from lightning_interp.gates import (
    Boundary,
    PatienceRule,
    PhaseTracker,
    Standing,
    Track,
    Verdict,
    boundaries,
    describe,
    improvement,
    judge,
    lag,
    plateau,
)

STEPS = [round(10 ** (k / 8)) for k in range(6, 30)]


@dataclass
class Fit:
    """The fields of a KneeFit that decisions use, with planted values."""

    knees: tuple[float, ...]
    slopes: tuple[float, ...]
    start: float = 0.0
    noise: float = 0.01
    autocorrelation: float = 0.0
    intervals: tuple[tuple[float, float], ...] = ()
    slope_errors: tuple[float, ...] = ()
    fitted: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        self.slope_errors = self.slope_errors or (0.01,) * len(self.slopes)
        self.intervals = self.intervals or tuple((knee - 0.1, knee + 0.1) for knee in self.knees)
        self.fitted = self.predict(np.log10(STEPS))

    def predict(self, x: np.ndarray) -> np.ndarray:
        x = np.asarray(x)
        value = self.start + self.slopes[0] * (x - math.log10(STEPS[0]))
        for knee, before, after in zip(self.knees, self.slopes, self.slopes[1:], strict=False):
            value = value + (after - before) * np.maximum(x - knee, 0)
        return value


def track(fit: Fit, mode: str = "min", size: float = 0.0, seed: int = 0) -> Track:
    jitter = size * np.random.default_rng(seed).standard_normal(len(STEPS))
    return Track(STEPS, list(fit.fitted + jitter), mode, fit)


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


@pytest.mark.parametrize("decades", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("slow", [0.0, 0.02, 0.04, 0.06, 0.5])
def test_a_curve_is_no_second_phase_to_its_own_mirror_image(decades: float, slow: float) -> None:
    # 2 in the first decade, then a slow fall: under .05 of the gain a decade, and over it in all.
    x = np.linspace(0, 1 + decades, 40)
    y = 5 - 2 * np.minimum(x, 1) - 2 * slow * np.maximum(x - 1, 0)
    y = y + 0.002 * np.random.default_rng(0).standard_normal(40)
    steps = [round(1000 * 10**one) for one in x]
    curves = {}
    for mode, sign in (("min", 1), ("max", -1)):
        fit = fit_knees(np.log10(steps), sign * y, intervals=False)
        curves[mode] = Track(steps, list(sign * y), mode, fit)
    assert not judge("two_phase", ("loss", curves["min"]), {"score": curves["max"]}).boundaries
    assert not judge("two_phase", ("score", curves["max"]), {"loss": curves["min"]}).boundaries


def test_a_slope_within_its_error_is_none() -> None:
    assert plateau(track(Fit((2.0,), (-2.0, -0.5), slope_errors=(0.01, 0.01)))) is None
    assert plateau(track(Fit((2.0,), (-2.0, -0.5), slope_errors=(0.01, 0.6)))) == 0


# ------------------------------------------------- improvement


def test_improvement_is_a_one_sided_regression() -> None:
    one = track(Fit((2.0,), (0.1, 0.3)), "max", size=0.02)
    found = improvement(one, since=100)
    there = [index for index, step in enumerate(STEPS) if step >= 100]
    x, y = np.log10(STEPS)[there], np.array(one.values)[there]
    expected = stats.linregress(x, y, alternative="greater")
    assert found.per_decade == pytest.approx(expected.slope)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-6)
    assert found.gain == pytest.approx(expected.slope * (x[-1] - 2))
    assert found.noticeable
    falls = Track(STEPS, [-value for value in one.values], "max", one.fit)
    assert improvement(falls, since=100).p_value == pytest.approx(1 - expected.pvalue)
    assert not improvement(falls, since=100).noticeable
    better = Track(STEPS, falls.values, "min", one.fit)
    assert improvement(better, since=100) == found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"noise": 0.3}, False),  # the gain of .5 is within twice the noise
        ({"slopes": (0.1, 0.0)}, False),
        ({"slopes": (0.1, -0.3)}, False),
        ({"slopes": (12.0, 0.3)}, False),  # .5 is less than a twentieth of the rise before
    ],
)
def test_what_counts_as_improvement(change: dict, expected: bool) -> None:
    given = {"knees": (2.0,), "slopes": (0.1, 0.3), "noise": 0.02, **change}
    assert improvement(track(Fit(**given), "max", size=0.02), since=100).noticeable is expected


def test_autocorrelation_makes_the_test_more_careful() -> None:
    plain, correlated = (
        improvement(track(Fit((2.0,), (0.1, 0.05), autocorrelation=rho), "max", size=0.04), 100).p_value
        for rho in (0.0, 0.6)
    )
    assert plain < 0.05 < correlated


def test_improvement_needs_four_readings_and_a_fit() -> None:
    one = track(Fit((2.0,), (0.1, 0.3)), "max")
    assert improvement(one, since=STEPS[-4]) is not None
    assert improvement(one, since=STEPS[-3]) is None
    assert improvement(Track(one.steps, one.values, "max", None), since=100) is None


# ------------------------------------------------- templates

LOSS = Fit((2.0,), (-2.0, 0.0))


def test_two_phases_need_a_plateau_and_something_that_improves_after_it() -> None:
    rises, flat = track(Fit((2.0,), (0.1, 0.3)), "max"), track(Fit((2.0,), (0.1, 0.0)), "max", 0.02, seed=1)
    found = judge("two_phase", ("val_loss", track(LOSS)), {"ood": rises})
    assert [round(at.step) for at in found.boundaries] == [100]
    assert found.fits
    assert "val_loss has its plateau there; ood still improves by 0.488 after it" in found.reason
    assert judge("two_phase", ("val_loss", track(LOSS)), {"flat": flat, "ood": rises}).boundaries == found.boundaries
    none = judge("two_phase", ("val_loss", track(LOSS)), {"flat": flat})
    assert (none.boundaries, none.fits) == ((), False)
    assert "plateau from step 100 (79 to 126); nothing improves noticeably after it: flat changes by" in none.reason
    steady = judge("two_phase", ("val_loss", track(Fit((), (-2.0,)))), {"ood": rises})
    assert (steady.boundaries, steady.fits, steady.reason) == ((), True, "val_loss has no plateau yet")
    late = Track(STEPS[-3:], rises.values[-3:], "max", None)
    waiting = judge("two_phase", ("val_loss", track(LOSS)), {"ood": late})
    assert (waiting.boundaries, waiting.fits) == ((), True)
    assert "too few readings of ood" in waiting.reason


def test_the_level_is_shared_between_keys() -> None:
    weak = track(Fit((2.0,), (0.1, 0.0), noise=0.02), "max", size=0.04)
    flat = track(Fit((2.0,), (0.1, 0.0)), "max")
    assert 0.01 < improvement(weak, 100).p_value < 0.04
    assert judge("two_phase", ("l", track(LOSS)), {"weak": weak}).boundaries
    many = {"weak": weak, **{f"flat{index}": flat for index in range(9)}}
    assert not judge("two_phase", ("l", track(LOSS)), many).boundaries


@pytest.mark.parametrize(
    ("knees", "slopes", "starts", "fits"),
    [
        ((), (-1.0,), [], True),
        ((), (0.0,), [], True),
        ((1.5,), (-1.0, 1.0), [1.5], True),
        ((1.5, 2.5), (-1.0, 1.0, -1.0), [1.5, 2.5], True),
        ((1.5, 2.5), (-1.0, -2.0, 1.0), [2.5], True),
        ((1.5, 2.0, 2.5), (-1.0, 0.001, 1.0, -1.0), [2.0, 2.5], True),
        ((1.5,), (1.0, -1.0), [], False),
        ((1.5, 2.0, 2.5), (-1.0, 1.0, -1.0, 1.0), [], False),
    ],
)
def test_three_phases_are_a_fall_a_rise_and_a_fall(knees: tuple, slopes: tuple, starts: list, fits: bool) -> None:
    found = judge("three_phase", ("val_loss", track(LOSS)), follow=("rank", track(Fit(knees, slopes))))
    assert [math.log10(at.step) for at in found.boundaries] == pytest.approx(starts)
    assert found.fits is fits
    assert ("expected: falls, rises, falls" in found.reason) is not fits


def test_without_a_template_every_knee_counts() -> None:
    found = judge("none", ("val_loss", track(Fit((1.5, 2.5), (-1.0, -2.0, 0.0)))))
    assert [math.log10(at.step) for at in found.boundaries] == pytest.approx([1.5, 2.5])
    assert found.reason == "val_loss has 2 knees"
    with pytest.raises(ValueError, match="expected one of"):
        judge("four_phase", ("val_loss", track(LOSS)))


def test_boundaries_and_lags() -> None:
    (one,) = boundaries(LOSS)
    assert (one.step, one.low, one.high) == pytest.approx((100, 10**1.9, 10**2.1))
    unknown = Fit((2.0,), (-2.0, 0.0), intervals=((math.nan, math.nan),))
    assert boundaries(unknown) == (Boundary(100.0, 100.0, 100.0),)
    outside = Fit((2.0,), (-2.0, 0.0), intervals=((2.1, 2.2),))
    assert boundaries(outside)[0].low == pytest.approx(100.0)
    assert lag(track(Fit((1.5, 2.3), (0.0, 1.0, 2.0))), 100) == pytest.approx(0.3)
    assert lag(track(Fit((1.8, 2.3), (0.0, 1.0, 2.0))), 100) == pytest.approx(-0.2)
    assert lag(track(Fit((), (0.0,))), 100) is None
    assert lag(Track([], []), 100) is None


# ------------------------------------------------- confirmation


def at(step: float, width: float = 1.1) -> Verdict:
    return Verdict((Boundary(step, step / width, step * width),), True, "found")


NOTHING = Verdict((), True, "nothing")


def test_a_boundary_is_confirmed_by_three_readings_in_a_row_at_one_place() -> None:
    tracker = PhaseTracker(3)
    verdicts = [at(100), at(105), NOTHING, at(100), at(103), at(98)]
    assert [tracker.update(step, one).current for step, one in enumerate(verdicts)] == [0, 0, 0, 0, 0, 1]
    assert tracker.standing.boundaries[0].step == 98
    assert tracker.standing.fits


def test_a_boundary_that_wanders_is_never_confirmed() -> None:
    tracker = PhaseTracker(3)
    assert all(tracker.update(k, at(100 * 10 ** (k / 12))).current == 0 for k in range(20))
    assert "may be a boundary, seen at 2 of 3 readings" in tracker.standing.reason


def test_wide_intervals_count_for_at_most_a_factor_of_two() -> None:
    tracker = PhaseTracker(2)
    assert [tracker.update(k, at(step, 10)).current for k, step in enumerate((100, 250, 400))] == [0, 0, 1]


def test_a_confirmed_phase_stays_when_its_evidence_is_gone() -> None:
    tracker = PhaseTracker(2)
    for step in (1, 2):
        tracker.update(step, at(100))
    gone = tracker.update(3, NOTHING)
    assert (gone.current, gone.fits, gone.boundaries[0].step) == (1, False, 100)
    assert "the evidence for the phase that began at step 100 (91 to 110) is gone: nothing" in gone.reason
    moving = tracker.update(4, at(300))
    assert (moving.current, moving.fits, moving.boundaries[0].step) == (1, False, 100)
    assert "its place seems to be step 300" in moving.reason
    moved = tracker.update(5, at(300))
    assert (moved.current, moved.fits, moved.boundaries[0].step) == (1, True, 300)
    contradicted = tracker.update(6, Verdict((Boundary(300, 290, 310),), False, "no"))
    assert (contradicted.current, contradicted.fits) == (1, False)


def test_a_second_reading_at_one_step_takes_the_place_of_the_first() -> None:
    tracker = PhaseTracker(2)
    assert [tracker.update(step, at(100)).current for step in (1, 1, 1, 2)] == [0, 0, 0, 1]
    tracker.update(2, NOTHING)
    assert tracker.standing.current == 0


VERDICTS = st.lists(
    st.lists(st.sampled_from([20.0, 22.0, 50.0, 100.0, 110.0, 300.0]), max_size=3, unique=True).map(
        lambda steps: Verdict(tuple(Boundary(s, s / 1.1, s * 1.1) for s in sorted(steps)), True, "found")
    ),
    max_size=20,
)


@given(VERDICTS, st.integers(1, 4), st.data())
def test_phases_never_fall_and_survive_a_checkpoint(verdicts: list, confirm: int, draw: st.DataObject) -> None:
    cut = draw.draw(st.integers(0, len(verdicts)))
    whole, part = PhaseTracker(confirm), PhaseTracker(confirm)
    before = 0
    for step, verdict in enumerate(verdicts):
        if step == cut:
            state = part.state_dict()
            part = PhaseTracker(confirm)
            part.load_state_dict(state)
        found = whole.update(step, verdict)
        assert part.update(step, verdict) == found
        assert found.current >= before
        assert len(found.boundaries) == found.current
        steps = [one.step for one in found.boundaries]
        assert steps == sorted(steps)
        before = found.current


def test_describe() -> None:
    names = ("phase one", "phase two")
    assert describe(Standing(), names) == "phase one goes on: no reading yet"
    assert describe(Standing(0, (), False, "why"), names) == "no second phase: why"
    one = Standing(1, (Boundary(450.2, 380.1, 519.8),), True, "why")
    assert describe(one, names, 0.1) == "phase two began at step 450 (90 %: 380 to 520): why"


# ------------------------------------------------- patience


@given(
    st.lists(st.integers(0, 8), max_size=25),
    st.sampled_from(["min", "max"]),
    st.integers(1, 4),
    st.sampled_from([0.0, 1.5]),
)
def test_patience_is_that_of_early_stopping(values: list, mode: str, patience: int, min_delta: float) -> None:
    reference = EarlyStopping("x", mode=mode, patience=patience, min_delta=min_delta)
    rule = PatienceRule(mode, patience, min_delta=min_delta)
    for step, value in enumerate(values):
        expected, _ = reference._evaluate_stopping_criteria(torch.tensor(float(value)))
        stop, reason = rule.update(step, float(value))
        assert stop == expected
        assert rule.best_value == reference.best_score
        if stop:
            assert f"did not improve {'by more than 1.5 ' if min_delta else ''}in {patience} readings" in reason
            break


def test_patience_in_steps() -> None:
    rule = PatienceRule("max", patience_steps=100)
    readings = [(10, 0.5), (20, 0.6), (60, 0.6), (119, 0.5), (121, 0.5)]
    found = [rule.update(*reading) for reading in readings]
    assert [stop for stop, _ in found] == [False, False, False, False, True]
    assert found[-1][1] == "did not improve in 101 optimizer steps; best: 0.6 at step 20"


def test_units_of_the_least_improvement() -> None:
    relative = PatienceRule("min", min_delta=0.1, delta="relative")
    assert [relative.update(k, value)[1] is not None for k, value in enumerate([10.0, 9.1, 8.9])] == [True, False, True]
    errors = PatienceRule("max", min_delta=2.0, delta="se")
    readings = [(1.0, 0.1), (1.1, 0.1), (1.3, 0.1), (1.5, 0.2)]
    assert [errors.update(k, v, se)[1] is not None for k, (v, se) in enumerate(readings)] == [True, False, True, False]
    with pytest.raises(ValueError, match="needs the standard error"):
        errors.update(9, 1.0)


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(-1, 1)), max_size=15), st.integers(0, 15))
def test_patience_survives_a_checkpoint_and_repeated_steps(readings: list, cut: int) -> None:
    readings = sorted(readings, key=lambda one: one[0])
    last = dict(readings)
    whole, part, plain = PatienceRule("max"), PatienceRule("max"), PatienceRule("max")
    for index, (step, value) in enumerate(readings):
        if index == cut:
            state = part.state_dict()
            part = PatienceRule("max")
            part.load_state_dict(state)
        assert part.update(step, value) == whole.update(step, value)
    for step, value in last.items():
        plain.update(step, value)
    assert (whole.best_value, whole.best_step, whole.waited) == (plain.best_value, plain.best_step, plain.waited)
