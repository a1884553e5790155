"""Factors, basis and inverse of a layer's Fisher information, beside dense matrices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import influence as plain
from torch import Tensor

from lightning_interp.functional import (
    damped_solve,
    eigenbasis,
    ekfac_inverse_product,
    kronecker_sums,
    rotated,
    squared_gradient_sum,
)

SEEDS = st.integers(0, 10**6)


def layer(seed: int, examples: int = 7, positions: int = 3, i: int = 4, o: int = 3) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    inputs, errors = (torch.randn(examples, positions, d, dtype=torch.float64, generator=draw) for d in (i, o))
    errors[torch.rand(examples, positions, generator=draw) < 0.2] = 0
    return inputs, errors


@given(seed=SEEDS, positions=st.integers(1, 3))
def test_the_inverse_is_that_of_the_whole_matrix(seed: int, positions: int) -> None:
    inputs, errors = layer(seed, positions=positions)
    sums = kronecker_sums(inputs, errors)
    Q_A, Q_S = eigenbasis(sums.inputs), eigenbasis(sums.errors)
    eigenvalues = squared_gradient_sum(inputs @ Q_A, errors @ Q_S) / len(inputs)
    V = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    found = ekfac_inverse_product(V, Q_S, Q_A, eigenvalues, 0.3)
    whole = plain.ekfac_matrix(list(inputs), list(errors)) + 0.3 * torch.eye(12, dtype=torch.float64)
    assert torch.allclose(found.flatten(1), torch.linalg.solve(whole, V.flatten(1).T).T, atol=1e-9)


def test_factors_are_sums_over_positions_that_something_reaches() -> None:
    inputs, errors = layer(0)
    found = kronecker_sums(inputs, errors)
    A, S, count = torch.zeros(4, 4, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64), 0
    for a, d in zip(inputs.flatten(0, 1), errors.flatten(0, 1), strict=True):
        if bool(d.any()):
            A, S, count = A + torch.outer(a, a), S + torch.outer(d, d), count + 1
    assert 0 < count < 21
    assert found.positions == count
    assert torch.allclose(found.inputs, A)
    assert torch.allclose(found.errors, S)
    halves = [kronecker_sums(inputs[part], errors[part]) for part in (slice(0, 3), slice(3, None))]
    assert torch.allclose(halves[0].inputs + halves[1].inputs, A)


def test_where_factors_are_independent_it_is_the_true_fisher() -> None:
    # One position, errors of ±1 of one number, independent of inputs: E[G Gᵀ] is the Kronecker product itself.
    inputs = torch.tensor([[1.0, 0.5], [-1.0, 2.0]], dtype=torch.float64).repeat_interleave(2, 0)[:, None]
    errors = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(2)[:, None, None]
    sums = kronecker_sums(inputs, errors)
    Q_A, Q_S = eigenbasis(sums.inputs), eigenbasis(sums.errors)
    eigenvalues = squared_gradient_sum(inputs @ Q_A, errors @ Q_S) / 4
    V = torch.tensor([[[1.0, 2.0]]], dtype=torch.float64)
    fisher = inputs[:, 0].T @ inputs[:, 0] / 4
    expected = damped_solve(fisher, torch.full((2,), 0.1), V.flatten(1))
    assert torch.allclose(ekfac_inverse_product(V, Q_S, Q_A, eigenvalues, 0.1).flatten(1), expected)


def test_a_basis_turns_there_and_back() -> None:
    inputs, errors = layer(1)
    sums = kronecker_sums(inputs, errors)
    Q_A, Q_S = eigenbasis(sums.inputs), eigenbasis(sums.errors)
    V = torch.ones(3, 4, dtype=torch.float64)
    assert torch.allclose(rotated(rotated(V, Q_S, Q_A), Q_S.T, Q_A.T), V)
    within = rotated(V, Q_S, Q_A)
    assert torch.allclose(within, torch.einsum("po,pi,pq->oi", Q_S, V @ Q_A, torch.eye(3, dtype=V.dtype)))
    D = Q_A.T @ sums.inputs @ Q_A
    assert torch.allclose(D, D.diag().diag(), atol=1e-9)
    assert bool((D.diag().diff() >= 0).all())


@given(seed=SEEDS)
def test_a_damped_solution_solves(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    root, v = (torch.randn(3, 5, dtype=torch.float64, generator=draw) for _ in range(2))
    matrix, damping = root.T @ root, torch.rand(5, dtype=torch.float64, generator=draw) + 0.1
    x = damped_solve(matrix, damping, v)
    assert torch.allclose(x @ (matrix + damping.diag()), v)


def test_arguments() -> None:
    one = torch.eye(1)
    with pytest.raises(ValueError, match=r"`damping` must be above 0 where an eigenvalue is 0, got 0.0"):
        ekfac_inverse_product(one, one, one, torch.zeros(1, 1), 0.0)
    with pytest.raises(ValueError, match=r"got -1"):
        ekfac_inverse_product(one, one, one, torch.full((1, 1), 5.0), -1.0)
    with pytest.raises(ValueError, match=r"`factor` must be \(D, D\), got shape \(2, 3\)"):
        eigenbasis(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="`factor` must be finite"):
        eigenbasis(torch.full((2, 2), float("nan")))
    with pytest.raises(ValueError, match=r"`damping` of 0 to 0 does not make the matrix positive"):
        damped_solve(torch.zeros(2, 2), torch.zeros(2), torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"\(P, P\), \(P,\) and \(Q, P\), got shapes \(2, 2\), \(3,\) and \(1, 2\)"):
        damped_solve(torch.eye(2), torch.zeros(3), torch.ones(1, 2))
