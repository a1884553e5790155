"""Patience."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning.callbacks import EarlyStopping

from lightning_interp.decisions import PatienceRule


@given(
    st.lists(st.integers(0, 8), max_size=25),
    st.sampled_from(["min", "max"]),
    st.integers(1, 4),
    st.sampled_from([0.0, 1.5]),
)
def test_patience_is_that_of_early_stopping(values: list, mode: str, patience: int, min_delta: float) -> None:
    reference = EarlyStopping("x", mode=mode, patience=patience, min_delta=min_delta)
    rule = PatienceRule(mode, patience, min_delta=min_delta)
    for step, value in enumerate(values):
        expected, _ = reference._evaluate_stopping_criteria(torch.tensor(float(value)))
        stop, reason = rule.update(step, float(value))
        assert stop == expected
        assert rule.best_value == reference.best_score
        if stop:
            assert f"did not improve {'by more than 1.5 ' if min_delta else ''}in {patience} readings" in reason
            break


def test_patience_in_steps() -> None:
    rule = PatienceRule("max", patience_steps=100)
    readings = [(10, 0.5), (20, 0.6), (60, 0.6), (119, 0.5), (121, 0.5)]
    found = [rule.update(*reading) for reading in readings]
    assert [stop for stop, _ in found] == [False, False, False, False, True]
    assert found[-1][1] == "did not improve in 101 optimizer steps; best: 0.6 at step 20"


def test_units_of_the_least_improvement() -> None:
    relative = PatienceRule("min", min_delta=0.1, delta="relative")
    assert [relative.update(k, value)[1] is not None for k, value in enumerate([10.0, 9.1, 8.9])] == [True, False, True]
    errors = PatienceRule("max", min_delta=2.0, delta="se")
    readings = [(1.0, 0.1), (1.1, 0.1), (1.3, 0.1), (1.5, 0.2)]
    assert [errors.update(k, v, se)[1] is not None for k, (v, se) in enumerate(readings)] == [True, False, True, False]
    with pytest.raises(ValueError, match="needs the standard error"):
        errors.update(9, 1.0)


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(-1, 1)), max_size=15), st.integers(0, 15))
def test_patience_survives_a_checkpoint_and_repeated_steps(readings: list, cut: int) -> None:
    readings = sorted(readings, key=lambda one: one[0])
    last = dict(readings)
    whole, part, plain = PatienceRule("max"), PatienceRule("max"), PatienceRule("max")
    for index, (step, value) in enumerate(readings):
        if index == cut:
            state = part.state_dict()
            part = PatienceRule("max")
            part.load_state_dict(state)
        assert part.update(step, value) == whole.update(step, value)
    for step, value in last.items():
        plain.update(step, value)
    assert (whole.best_value, whole.best_step, whole.waited) == (plain.best_value, plain.best_step, plain.waited)
