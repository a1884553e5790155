"""The fixed random subspace."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lightning_interp.functional import random_projection


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5))
def test_columns_are_orthonormal(width: int, dim: int, seed: int) -> None:
    width = max(width, dim)
    matrix = random_projection(width, dim, seed)
    assert matrix.shape == (width, dim)
    assert torch.allclose(matrix.T @ matrix, torch.eye(dim), atol=1e-5)


def test_the_same_every_time_and_another_for_another_seed() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = random_projection(16, 4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(random_projection(16, 4), first)
    assert not torch.allclose(random_projection(16, 4, seed=1).abs(), first.abs(), atol=0.01)


def test_no_direction_is_preferred() -> None:
    """The square of an entry of a uniform unit vector of dimension d is Beta(1/2, (d − 1)/2)."""
    entries = torch.stack([random_projection(6, 3, seed) for seed in range(400)])
    for row, column in ((0, 0), (5, 2), (2, 1)):
        assert stats.kstest(entries[:, row, column].square(), stats.beta(0.5, 2.5).cdf).pvalue > 1e-3
        # Without a sign of its own.
        assert abs(float(entries[:, row, column].sign().mean())) < 4 / math.sqrt(400)


@pytest.mark.parametrize("dim", [0, 9])
def test_a_subspace_that_does_not_fit_is_said(dim: int) -> None:
    with pytest.raises(ValueError, match=f"`dim` must be 1 to the width of the representations, 8; got {dim}"):
        random_projection(8, dim)
