"""Cosines of tasks, with and without the noise of their gradients, where the truth is planted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_interp.functional import (
    cosine_matrix,
    count_sketch,
    disattenuate,
    reliability,
    same_group,
    within_between,
)

DIM = 20_000


def off(matrix: torch.Tensor) -> torch.Tensor:
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)]


def planted(tasks: int, half: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tasks with a true cosine of .5 and their two noisy halves, which have the given cosine."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(1, DIM, generator=generator)
    signal = (shared + torch.randn(tasks, DIM, generator=generator)) / math.sqrt(2)
    noise = math.sqrt(1 / half - 1)
    first, second = signal + noise * torch.randn(2, tasks, DIM, generator=generator)
    return signal, first, second


@given(seed=st.integers(0, 10**6), tasks=st.integers(1, 6), dim=st.integers(2, 9), centred=st.booleans())
def test_cosines_are_those_of_numpy(seed: int, tasks: int, dim: int, centred: bool) -> None:
    z = torch.randn(tasks, dim, generator=torch.Generator().manual_seed(seed))
    found = cosine_matrix(z, centred)
    if centred and tasks == 1:
        assert found.isnan().all()
        return
    plain = z.double().numpy()
    plain = plain - plain.mean(0) if centred else plain
    lengths = np.linalg.norm(plain, axis=1)
    np.testing.assert_allclose(found.numpy(), plain @ plain.T / np.outer(lengths, lengths), atol=1e-12)
    assert torch.equal(found, found.T)
    order = torch.randperm(tasks, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(cosine_matrix(z[order], centred), found[order][:, order])
    # Spearman–Brown of a vector with itself is 1.
    torch.testing.assert_close(reliability(z, 3 * z, centred), torch.ones(tasks).double())


def test_a_task_without_direction_is_nan_alone() -> None:
    z = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    found = cosine_matrix(z)
    assert found[1].isnan().all()
    assert found[0, 2].item() == pytest.approx(math.sqrt(0.5))
    assert cosine_matrix(torch.tensor([[1.0, math.inf], [1.0, 0.0]]))[0].isnan().all()
    # Equal tasks keep nothing but rounding once their mean is gone.
    assert cosine_matrix(torch.full((3, 5), 0.1), centred=True).isnan().all()


@pytest.mark.parametrize(("half", "over"), [(0.64, 0.61), (0.19, 0.84)])
@pytest.mark.parametrize("sketched", [False, True])
def test_the_planted_cosine_is_found_and_halves_alone_over_correct(half: float, over: float, sketched: bool) -> None:
    _, first, second = planted(12, half)
    if sketched:
        first, second = count_sketch(first, 16_384), count_sketch(second, 16_384)
    raw = cosine_matrix(first + second)
    r = reliability(first, second)
    h = r / (2 - r)
    assert float(h.mean()) == pytest.approx(half, abs=0.01)
    assert float(off(raw).mean()) == pytest.approx(0.5 * 2 * half / (1 + half), abs=0.01)
    assert float(off(disattenuate(raw, r)).mean()) == pytest.approx(0.5, abs=0.015)
    assert float(off(disattenuate(raw, h)).mean()) == pytest.approx(over, abs=0.02)
    assert disattenuate(raw, r).diagonal().tolist() == [1.0] * 12


@pytest.mark.parametrize("half", [0.64, 0.19])
def test_centred_cosines_have_the_bias_that_is_stated(half: float) -> None:
    tasks = 6
    signal, first, second = planted(tasks, half)
    truth = cosine_matrix(signal, centred=True)
    assert float(off(truth).mean()) == pytest.approx(-1 / (tasks - 1), abs=0.01)
    # Centring removes what is shared: half of the signal, none of the noise but its mean.
    r = reliability(first, second, centred=True)
    signal_left, noise_left = 0.5 * (1 - 1 / tasks), (1 / half - 1) / 2 * (1 - 1 / tasks)
    expected = signal_left / (signal_left + noise_left)
    assert float(r.mean()) == pytest.approx(expected, abs=0.02)
    found = disattenuate(cosine_matrix(first + second, centred=True), r)
    bias = -(1 - expected) / (expected * (tasks - 1))
    assert float((off(found) - off(truth)).mean()) == pytest.approx(bias, abs=0.02)


def test_one_common_mean_would_feign_reliability() -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, 4, DIM, generator=generator)
    assert float(reliability(first, second, centred=True).abs().max()) < 0.05
    mean = ((first + second) / 2).mean(0)
    feigned = reliability(first - mean, second - mean)
    assert float(feigned.abs().min()) > 0.1


def test_too_little_signal_has_no_estimate() -> None:
    cosines = torch.full((4, 4), 0.2, dtype=torch.float64)
    r = torch.tensor([0.5, 0.1, -0.3, math.nan], dtype=torch.float64)
    found = disattenuate(cosines, r)
    assert found[0].isnan().tolist() == [False, True, True, True]
    assert found[1:].isnan().all()
    low = disattenuate(cosines, r, floor=0.0)
    assert low.isnan().any(0).tolist() == [True] * 4
    assert low[0, 1].item() == pytest.approx(0.2 / math.sqrt(0.05))
    assert cosines.eq(0.2).all()


def test_within_and_between_leave_out_nan_and_the_diagonal() -> None:
    groups = ["a", "b", "a", "b", "b"]
    matrix = torch.arange(25.0).view(5, 5)
    matrix[0, 2] = math.nan
    within, between = within_between(matrix, groups)
    same = [matrix[i, j].item() for i in range(5) for j in range(5) if i != j and groups[i] == groups[j]]
    other = [matrix[i, j].item() for i in range(5) for j in range(5) if groups[i] != groups[j]]
    assert within == pytest.approx(np.nanmean(same))
    assert between == pytest.approx(np.mean(other))
    alone = within_between(torch.eye(2), ["a", "b"])
    assert math.isnan(alone.within)
    assert alone.between == 0
    assert within_between(same_group(groups), groups) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cosine_matrix(torch.ones(3)), r"`vectors` must be a non-empty matrix .* got shape \(3,\)"),
        (lambda: reliability(torch.ones(2, 3), torch.ones(3, 3)), r"one shape, got \(2, 3\) and \(3, 3\)"),
        (lambda: disattenuate(torch.eye(2), torch.ones(3)), r"got shapes \(2, 2\) and \(3,\)"),
        (lambda: disattenuate(torch.eye(2), torch.ones(2), floor=1), "`floor` must be at least 0 and below 1, got 1"),
        (lambda: within_between(torch.eye(2), ["a"]), r"must be \(1, 1\) for 1 `groups`, got \(2, 2\)"),
    ],
)
def test_bad_input_is_said(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
