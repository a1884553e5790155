"""Holm's correction against the closed test that it is a shortcut of."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_interp.functional import holm

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=6)


def closed(p: list[float]) -> list[float]:
    """The largest Bonferroni p of any set of tests that holds the one in question."""
    sets = [held for size in range(1, len(p) + 1) for held in combinations(range(len(p)), size)]
    return [
        max(min(1.0, len(held) * min(p[one] for one in held)) for held in sets if index in held)
        for index in range(len(p))
    ]


@given(P_VALUES)
def test_is_the_closed_bonferroni_test(p: list[float]) -> None:
    assert holm(p) == pytest.approx(closed(p))


@given(P_VALUES)
def test_never_smaller_and_in_the_same_order(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(before <= after <= 1 for before, after in zip(p, adjusted, strict=True))
    order = sorted(range(len(p)), key=p.__getitem__)
    assert [adjusted[at] for at in order] == sorted(adjusted)


def test_nothing_to_correct() -> None:
    assert holm([]) == []
    assert holm([0.2]) == [0.2]


def test_what_is_no_p_value_is_said() -> None:
    with pytest.raises(ValueError, match=r"between 0 and 1, got \[1.5, nan\]"):
        holm([0.1, 1.5, float("nan")])
