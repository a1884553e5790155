"""Debiased CKA: the definition, what it is on unrelated clouds, and what it must not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import cka as reference

from lightning_interp.functional import debiased_cka, linear_cka, unbiased_hsic


def cloud(rows: int, dim: int, seed: int, mean: float = 0.0) -> torch.Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + mean


@pytest.mark.parametrize(("rows", "first", "second"), [(4, 1, 1), (12, 3, 5), (9, 40, 30), (20, 2, 60)])
def test_it_is_the_definition_with_kernel_matrices(rows: int, first: int, second: int) -> None:
    x, y = cloud(rows, first, 0, mean=3.0), cloud(rows, second, 1)
    y[:, 0] += x[:, 0]
    expected = reference.hsic(x.numpy(), y.numpy())
    assert float(unbiased_hsic(x, y)) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert expected == pytest.approx(reference.u_centred_hsic(x.numpy(), y.numpy()), rel=1e-9, abs=1e-9)
    if rows > 4:
        assert float(debiased_cka(x, y)) == pytest.approx(reference.cka(x.numpy(), y.numpy()), rel=1e-9)


def test_the_estimate_is_unbiased() -> None:
    # For linear kernels HSIC is the squared norm of the cross-covariance.
    mixing = torch.tensor([[0.8, 0.0, 0.3], [-0.5, 0.4, 0.0]], dtype=torch.float64)
    values = []
    for seed in range(3000):
        x = cloud(6, 2, seed)
        values.append(float(unbiased_hsic(x, x @ mixing + cloud(6, 3, seed + 10_000))))
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values) - float(mixing.square().sum())) < 4 * error
    assert error < 0.1


def test_unrelated_clouds_of_few_rows_are_near_zero_where_the_plain_one_is_near_one() -> None:
    found = [(cloud(50, 2000, seed), cloud(50, 2000, seed + 500)) for seed in range(20)]
    plain = [float(linear_cka(*pair)) for pair in found]
    debiased = [float(debiased_cka(*pair)) for pair in found]
    assert min(plain) > 0.95
    assert max(map(abs, debiased)) < 0.15
    assert abs(np.mean(debiased)) < 4 * np.std(debiased) / math.sqrt(20)


def test_both_agree_where_rows_are_many() -> None:
    x = cloud(4000, 4, 0)
    y = torch.cat([x[:, :2], cloud(4000, 2, 1)], dim=1)
    # Two of four axes shared, all of one size: 2 / 4.
    assert float(debiased_cka(x, y)) == pytest.approx(0.5, abs=0.03)
    assert float(linear_cka(x, y)) == pytest.approx(float(debiased_cka(x, y)), abs=3e-3)


@given(st.integers(0, 1000), st.integers(5, 30), st.integers(1, 8), st.floats(0.01, 100), st.floats(-50, 50))
def test_moving_turning_scaling_and_reordering_change_nothing(
    seed: int, rows: int, dim: int, scale: float, shift: float
) -> None:
    x, y = cloud(rows, dim, seed), cloud(rows, dim, seed + 1)
    y = y + x
    turn = torch.linalg.qr(cloud(dim, dim, seed + 2))[0]
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    expected = float(debiased_cka(x, y))
    changed = float(debiased_cka((scale * x @ turn + shift)[order], y[order]))
    assert changed == pytest.approx(expected, abs=1e-7)
    assert expected <= 1 + 1e-9
    assert float(debiased_cka(x, scale * x @ turn + shift)) == pytest.approx(1, abs=1e-7)
    assert float(debiased_cka(y, x)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("value", [0.0, 1e4])
def test_a_cloud_without_spread_has_none(value: float) -> None:
    assert math.isnan(float(debiased_cka(torch.full((10, 3), value), cloud(10, 3, 0).float())))
    assert math.isnan(float(linear_cka(torch.full((10, 3), value) * (1 + 1e-8), cloud(10, 3, 0).float())))


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="got 5 and 6 rows"):
        debiased_cka(torch.zeros(5, 2), torch.zeros(6, 2))
    with pytest.raises(ValueError, match="at least 4 rows, got 3"):
        unbiased_hsic(torch.zeros(3, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="`y` must be a non-empty matrix"):
        linear_cka(torch.zeros(5, 2), torch.zeros(5))
