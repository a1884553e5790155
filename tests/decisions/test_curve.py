"""Knees as boundaries."""

from __future__ import annotations

import math

import pytest

from lightning_interp.decisions import Boundary, Curve, boundaries, lag
from tests.decisions.planted import Fit, track

LOSS = Fit((2.0,), (-2.0, 0.0))


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
    assert lag(Curve([], []), 100) is None
