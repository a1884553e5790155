"""What is kept of many readings: few, spread evenly, the first and the last."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_interp.reading.stored_readings import StoredReadings


@given(st.integers(2, 9), st.integers(1, 200))
def test_the_first_and_the_last_and_no_more_than_asked(most: int, number: int) -> None:
    kept = StoredReadings(most)
    for step in range(number):
        kept.add(step, {"step": step})
        assert kept.steps[0] == 0
        assert kept.steps[-1] == step
        assert len(kept) <= most
    assert [one["step"] for one in kept.values] == kept.steps
    assert len(kept) >= min(most, number) // 2
    gaps = [after - before for before, after in pairwise(kept.steps)]
    assert len(set(gaps[:-1])) <= 1


@given(st.integers(2, 6), st.integers(0, 40), st.integers(0, 40))
def test_it_goes_on_where_a_checkpoint_left_off(most: int, before: int, after: int) -> None:
    whole, part, resumed = StoredReadings(most), StoredReadings(most), StoredReadings(most)
    for step in range(before):
        part.add(step, {"step": step})
    resumed.load_state_dict(part.state_dict())
    for step in range(before, before + after):
        resumed.add(step, {"step": step})
    for step in range(before + after):
        whole.add(step, {"step": step})
    assert resumed.state_dict() == whole.state_dict()


def test_one_is_too_few() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        StoredReadings(1)
