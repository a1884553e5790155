"""What templates make of readings."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_interp.decisions import Curve, improvement, judge
from lightning_interp.functional import fit_knees
from tests.decisions.planted import STEPS, Fit, track

LOSS = Fit((2.0,), (-2.0, 0.0))


def test_two_phases_need_a_plateau_and_something_that_improves_after_it() -> None:
    rises, flat = track(Fit((2.0,), (0.1, 0.3)), "max"), track(Fit((2.0,), (0.1, 0.0)), "max", 0.02, seed=1)
    found = judge("two_phase", ("val_loss", track(LOSS)), {"ood": rises})
    assert [round(at.step) for at in found.boundaries] == [100]
    assert found.fits
    assert "val_loss has its plateau there; ood still improves by 0.3" in found.reason
    assert judge("two_phase", ("val_loss", track(LOSS)), {"flat": flat, "ood": rises}).boundaries == found.boundaries
    none = judge("two_phase", ("val_loss", track(LOSS)), {"flat": flat})
    assert (none.boundaries, none.fits) == ((), False)
    assert "plateau from step 100 (79 to 126); nothing improves noticeably after it: flat changes by" in none.reason
    steady = judge("two_phase", ("val_loss", track(Fit((), (-2.0,)))), {"ood": rises})
    assert (steady.boundaries, steady.fits, steady.reason) == ((), True, "val_loss has no plateau yet")
    late = Curve(STEPS[-3:], rises.values[-3:], "max", None)
    waiting = judge("two_phase", ("val_loss", track(LOSS)), {"ood": late})
    assert (waiting.boundaries, waiting.fits) == ((), True)
    assert "too few readings of ood" in waiting.reason


def test_the_level_is_shared_between_keys() -> None:
    weak = track(Fit((2.0,), (0.1, 0.03), noise=0.018), "max", size=0.001)
    flat = track(Fit((2.0,), (0.1, 0.0)), "max")
    assert 0.001 < improvement(weak, 100, track(LOSS)).p_value < 0.01
    assert judge("two_phase", ("l", track(LOSS)), {"weak": weak}).boundaries
    weaker = track(Fit((2.0,), (0.1, 0.03), noise=0.023), "max", size=0.001)
    assert 0.01 < improvement(weaker, 100, track(LOSS)).p_value < 0.05  # enough for one look, not for a run of them
    assert not judge("two_phase", ("l", track(LOSS)), {"weaker": weaker}).boundaries
    many = {"weak": weak, **{f"flat{index}": flat for index in range(9)}}
    assert not judge("two_phase", ("l", track(LOSS)), many).boundaries


def test_a_loss_that_has_slowed_down_points_to_a_second_phase_where_something_improves() -> None:
    slow = track(Fit((2.0,), (-2.0, -0.4)))
    rises, flat = track(Fit((2.0,), (0.1, 0.3)), "max"), track(Fit((2.0,), (0.1, 0.0)), "max", 0.01, seed=1)
    found = judge("two_phase", ("val_loss", slow), {"ood": rises})
    assert (found.boundaries, found.fits) == ((), True)
    assert [round(at.step) for at in found.pointed_to] == [100]
    assert found.reason.startswith("val_loss has slowed down there; ood still improves by")
    none = judge("two_phase", ("val_loss", slow), {"flat": flat})
    assert (none.pointed_to, none.fits) == ((), True)
    settled = judge("two_phase", ("val_loss", track(LOSS)), {"ood": rises})
    assert settled.pointed_to == settled.boundaries


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


@pytest.mark.parametrize(
    ("knees", "slopes", "starts", "fits", "said"),
    [
        ((1.5, 2.0), (0.0, 2.0, 0.0), [1.5, 2.0], True, "rises by 1 from step 32"),
        ((1.5, 2.0), (0.05, 2.0, 0.1), [1.5, 2.0], True, "rises by 1 from"),
        ((2.0,), (0.0, 1.0), [2.0], True, "on"),
        ((), (0.0,), [], True, "has not changed yet"),
        ((), (1.0,), [], False, "from the first reading on"),
        ((2.0,), (1.0, 0.0), [], False, "from the first reading on"),
        ((1.5, 2.0), (0.0, -2.0, 0.0), [], True, "has not changed yet"),
        ((1.5, 2.0), (0.0, 0.4, 0.0), [], True, "at its steepest it rises by 0.2"),
        ((1.0, 2.0), (0.9, 1.0, 0.9), [], True, "and by as much elsewhere"),
    ],
)
@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_change_is_one_steep_piece(
    knees: tuple, slopes: tuple, starts: list, fits: bool, said: str, mode: str
) -> None:
    sign = 1 if mode == "max" else -1
    curve = track(Fit(knees, tuple(sign * slope for slope in slopes)), mode)
    found = judge("change", ("val_loss", track(LOSS)), follow=("heads", curve), least=0.3)
    assert [math.log10(at.step) for at in found.boundaries] == pytest.approx(starts)
    assert found.fits is fits
    assert said.replace("rises", "rises" if mode == "max" else "falls") in found.reason
    assert judge("change", ("val_loss", track(LOSS)), follow=("heads", Curve([1], [0.0], mode, None))).fits


def test_without_a_template_every_knee_counts() -> None:
    found = judge("none", ("val_loss", track(Fit((1.5, 2.5), (-1.0, -2.0, 0.0)))))
    assert [math.log10(at.step) for at in found.boundaries] == pytest.approx([1.5, 2.5])
    assert found.reason == "val_loss has 2 knees"
    with pytest.raises(ValueError, match="expected one of"):
        judge("four_phase", ("val_loss", track(LOSS)))


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
        curves[mode] = Curve(steps, list(sign * y), mode, fit)
    assert not judge("two_phase", ("loss", curves["min"]), {"score": curves["max"]}).boundaries
    assert not judge("two_phase", ("score", curves["max"]), {"loss": curves["min"]}).boundaries
