"""What the largest values have of a sum, and the ROC area of labels dealt at random."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_interp.functional import auroc, permuted_auroc, top_mass, top_mass_chance


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.floats(0.001, 1))
def test_the_largest_have_what_a_sorted_list_says(values: list[float], share: float) -> None:
    number = max(1, math.ceil(share * len(values) - 1e-9))
    total = math.fsum(values)
    expected = math.fsum(sorted(values)[-number:]) / total if total else number / len(values)
    found = top_mass(torch.tensor(values, dtype=torch.float64), share)
    assert found == pytest.approx(expected, rel=1e-9)
    assert found >= top_mass_chance(len(values), share) - 1e-9


def test_equal_values_are_at_chance() -> None:
    for number in (1, 99, 100, 101, 1000):
        assert top_mass(torch.ones(number)) == pytest.approx(top_mass_chance(number), rel=1e-9)
    assert math.isnan(top_mass_chance(0))
    assert math.isnan(top_mass(torch.zeros(0)))


@pytest.mark.parametrize("seed", range(5))
def test_labels_dealt_at_random_order_nothing(seed: int) -> None:
    scores, labels = torch.arange(400.0), torch.arange(400) >= 360
    assert auroc(scores, labels) == 1
    assert permuted_auroc(scores, labels, seed=seed) == pytest.approx(0.5, abs=0.05)
    assert permuted_auroc(scores, labels, 1, seed) != permuted_auroc(scores, labels, 1, seed + 1)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative or NaN, got 2 such of 3"):
        top_mass(torch.tensor([1.0, -1.0, math.nan]))
    with pytest.raises(ValueError, match=r"must be \(N,\)"):
        top_mass(torch.ones(2, 2))
    with pytest.raises(ValueError, match="`share` must lie above 0"):
        top_mass(torch.ones(2), 0)
    with pytest.raises(ValueError, match="`permutations` must be at least 1"):
        permuted_auroc(torch.ones(2), torch.tensor([0, 1]), 0)
