"""Overlap of the largest coordinates against sets, and what shared scale alone makes of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import task_space as plain

from lightning_interp.functional import overlap_above_null, overlap_matrix


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 10**6), tasks=st.integers(1, 5), sample=st.integers(1, 90), share=st.floats(0.01, 1))
def test_overlap_is_that_of_sets(seed: int, tasks: int, sample: int, share: float) -> None:
    values = normal(seed, tasks, sample)
    found = overlap_matrix(values, share)
    expected = plain.overlap(values.numpy(), max(1, round(share * sample)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    order = torch.randperm(tasks, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(overlap_matrix(values[order], share), found[order][:, order])
    assert torch.equal(overlap_matrix(-3 * values, share), found)


def test_columns_are_read_in_parts() -> None:
    values = normal(0, 3, 200_000)
    expected = plain.overlap(values.numpy(), 2000)
    np.testing.assert_allclose(overlap_matrix(values).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(("spread", "expected"), [(0.0, 0.01), (1.0, 0.29), (1.5, 0.41), (2.0, 0.50)])
def test_shared_scale_alone_overlaps_and_the_null_removes_it(spread: float, expected: float) -> None:
    sample, tasks = 400_000, 4
    scale = (spread * normal(1, sample)).exp()
    values, null = scale * normal(2, tasks, sample), scale * normal(3, tasks, sample)
    for matched in (False, True):
        result = overlap_above_null(values, null, matched=matched)
        for i in range(tasks):
            for j in range(i):
                assert result.overlap[i, j].item() == pytest.approx(expected, abs=0.02)
                assert result.null[i, j].item() == pytest.approx(expected, abs=0.02)
                assert abs(result.above[i, j].item()) < 0.025


def test_what_two_tasks_share_stands_above_the_null() -> None:
    sample = 200_000
    scale = (1.5 * normal(1, sample)).exp()
    shared, own, null = normal(2, 1, sample), normal(3, 3, sample), normal(4, 5, sample)
    values = scale * torch.cat([shared + 0.5 * own[:2], own[2:]])
    above = overlap_above_null(values, scale * null).above
    assert above[0, 1].item() > 0.2
    assert above[:2, 2].abs().max().item() < 0.04


def test_a_null_is_a_mean_over_its_draws() -> None:
    values, null = normal(5, 3, 60), normal(6, 4, 60)
    everything = plain.overlap(torch.cat([values, null]).numpy(), 15)
    own = everything[:3, 3:].mean(1)
    result = overlap_above_null(values, null, fraction=0.25)
    np.testing.assert_allclose(result.null.numpy(), (own[:, None] + own) / 2, rtol=1e-6)
    empty = overlap_above_null(values, torch.cat([null, torch.zeros(1, 60)]), fraction=0.25)
    torch.testing.assert_close(empty.null, result.null)
    matched = overlap_above_null(values, null[:3], fraction=0.25, matched=True)
    np.testing.assert_allclose(matched.null.numpy(), everything[3:6, 3:6], rtol=1e-6)
    torch.testing.assert_close(matched.above, matched.overlap - matched.null)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0])
def test_a_task_without_a_set_is_nan_alone(bad: float) -> None:
    values = normal(7, 3, 40)
    values[1, 3:] = bad
    found = overlap_matrix(values, 0.1)
    assert found[1].isnan().all()
    assert found[:, 1].isnan().all()
    assert found[[0, 2]][:, [0, 2]].isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: overlap_matrix(torch.ones(3)), r"`values` must be a non-empty matrix .* got shape \(3,\)"),
        (lambda: overlap_matrix(torch.ones(2, 3), 0.0), "`fraction` must lie above 0 and not above 1, got 0.0"),
        (
            lambda: overlap_above_null(torch.ones(2, 3), torch.ones(1, 4)),
            r"`null` must have shape \(draws, 3\), got \(1, 4\)",
        ),
        (
            lambda: overlap_above_null(torch.ones(2, 3), torch.ones(1, 3), matched=True),
            r"`null` must have shape \(2, 3\), got \(1, 3\)",
        ),
    ],
)
def test_bad_input_is_said(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
