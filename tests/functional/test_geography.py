"""Measures of predicted coordinates against scikit-learn and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import r2_score
from sklearn.metrics.pairwise import haversine_distances

from lightning_interp.functional import great_circle, proximity_error, r_squared
from tests.reference.coordinates import proximity_error as plain_proximity_error

seeds = st.integers(0, 10**6)


def points(seed: int, number: int, dims: int = 2) -> torch.Tensor:
    return torch.randn(number, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seed=seeds, number=st.integers(3, 30), dims=st.integers(1, 3))
def test_against_plain_ones(seed: int, number: int, dims: int) -> None:
    truth, guess = points(seed, number, dims), points(seed + 1, number, dims)
    expected = r2_score(truth.numpy(), guess.numpy(), multioutput="raw_values")
    torch.testing.assert_close(r_squared(guess, truth), torch.from_numpy(np.atleast_1d(expected)))
    assert proximity_error(guess, truth) == pytest.approx(plain_proximity_error(guess.numpy(), truth.numpy()))
    rounded = guess.round()  # ties
    assert proximity_error(rounded, truth.round()) == pytest.approx(
        plain_proximity_error(rounded.numpy(), truth.round().numpy())
    )


def test_levels_of_the_proximity_error() -> None:
    truth = points(0, 200)
    assert proximity_error(truth, truth) == 0
    assert proximity_error(torch.zeros(200, 2), truth) == 0.5
    assert proximity_error(points(1, 200), truth) == pytest.approx(0.5, abs=0.05)
    assert 0 < proximity_error(truth + 0.3 * points(2, 200), truth) < 0.2


def test_a_constant_target_has_no_r2() -> None:
    found = r_squared(points(0, 5), torch.stack([torch.ones(5), torch.arange(5.0)], 1))
    assert math.isnan(found[0])
    assert math.isfinite(found[1])


def test_great_circles_equal_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(7, 2, generator=generator, dtype=torch.float64) * 2 - 1 for _ in range(2))
    a, b = a * torch.tensor([90.0, 180.0]), b * torch.tensor([90.0, 180.0])
    expected = haversine_distances(a.deg2rad().numpy(), b.deg2rad().numpy()) * 6371.0
    np.testing.assert_allclose(great_circle(a, b).numpy(), expected, rtol=1e-9, atol=1e-6)


def test_the_date_line_and_the_poles() -> None:
    across = great_circle(torch.tensor([[0.0, 179.0]]), torch.tensor([[0.0, -179.0]])).item()
    assert across == pytest.approx(6371 * math.radians(2))
    pole = great_circle(torch.tensor([[120.0, 10.0]]), torch.tensor([[90.0, -70.0]])).item()
    assert pole == pytest.approx(0, abs=1e-6)
    # On the sphere the two guesses across the date line are near their places, on the flat map far.
    truth, guess = torch.tensor([[0.0, 179.0], [0.0, 100.0]]), torch.tensor([[0.0, -179.0], [0.0, 120.0]])
    assert proximity_error(guess, truth, "haversine") == 0
    assert proximity_error(guess, truth) == 0.5


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"one shape .* got \(3, 2\) and \(4, 2\)"):
        r_squared(torch.ones(3, 2), torch.ones(4, 2))
    with pytest.raises(ValueError, match="at least two rows"):
        proximity_error(torch.ones(1, 2), torch.ones(1, 2))
    with pytest.raises(ValueError, match="'euclidean' or 'haversine', got 'miles'"):
        proximity_error(torch.ones(2, 2), torch.ones(2, 2), "miles")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"latitude and longitude; got \(2, 3\)"):
        great_circle(torch.ones(2, 3), torch.ones(2, 2))
