"""The arithmetic of when to read, against plain enumeration."""

from itertools import islice, pairwise

import numpy as np
import pytest
import torch

from lightning_interp.decisions import StepSchedule, log_spaced_steps


def brute_force(schedule: StepSchedule, stop: int) -> list[int]:
    wanted = set(log_spaced_steps(schedule.per_decade, schedule.start, stop)) if schedule.steps == "log" else set()
    if isinstance(schedule.steps, int):
        wanted |= set(range(schedule.steps, stop + 1, schedule.steps))
    elif schedule.steps not in ("log", None):
        wanted |= set(schedule.steps)
    if schedule.every is not None:
        wanted |= set(range(schedule.every, stop + 1, schedule.every))
    return sorted(step for step in wanted if schedule.start <= step <= stop)


def test_arrays_and_whole_numbers_of_numpy_are_taken() -> None:
    for steps in (np.array([1, 5, 9]), torch.tensor([1, 5, 9]), [np.int64(1), 5, np.int32(9)], range(1, 10, 4)):
        assert StepSchedule(steps).up_to(100) == [1, 5, 9]
    schedule = StepSchedule("log", per_decade=np.int64(8), start=np.int32(1), every=np.int16(50))
    assert schedule.up_to(10**6) == StepSchedule("log", per_decade=8, start=1, every=50).up_to(10**6)


@pytest.mark.parametrize("steps", [10, np.int64(10)])
def test_one_number_is_all_of_its_multiples(steps) -> None:
    schedule = StepSchedule(steps)
    assert schedule.up_to(35) == [10, 20, 30]
    assert type(schedule.steps) is int
    assert StepSchedule(steps, every=25, start=20).up_to(50) == [20, 25, 30, 40, 50]


@pytest.mark.parametrize("steps", [np.array([1.5, 2]), np.array([[1, 2]]), np.array([2, 1]), torch.tensor(3.5), 2.5])
def test_arrays_of_something_else_are_refused(steps) -> None:
    with pytest.raises(ValueError, match="steps="):
        StepSchedule(steps)


def test_default_spacing_is_the_documented_one():
    assert list(log_spaced_steps(8, stop=100)) == [1, 2, 3, 4, 6, 7, 10, 13, 18, 24, 32, 42, 56, 75, 100]


@pytest.mark.parametrize("per_decade", [1, 3, 7, 8, 50])
@pytest.mark.parametrize("start", [1, 3, 100])
def test_log_spacing_is_unique_increasing_and_hits_every_power_of_ten_of_start(per_decade, start):
    steps = list(log_spaced_steps(per_decade, start, stop=start * 10**9))
    assert steps[0] == start
    assert all(after > before for before, after in pairwise(steps))
    assert {start * 10**k for k in range(10)} <= set(steps)
    late = [step for step in steps if start * 10**8 <= step < start * 10**9]
    assert len(late) == per_decade


def test_log_spacing_without_stop_goes_on():
    assert list(islice(log_spaced_steps(1), 6)) == [1, 10, 100, 1_000, 10_000, 100_000]


@pytest.mark.parametrize(
    "schedule",
    [
        StepSchedule(),
        StepSchedule(per_decade=3, start=7),
        StepSchedule(per_decade=40),
        StepSchedule(per_decade=2, every=50),
        StepSchedule(steps=[2, 3, 500, 1999]),
        StepSchedule(steps=(5, 6), every=400, start=6),
        StepSchedule(steps=None, every=7, start=20),
        StepSchedule(steps=9),
        StepSchedule(steps=6, every=10, start=7),
    ],
    ids=repr,
)
def test_next_after_agrees_with_enumeration(schedule):
    stop = 2000
    wanted = brute_force(schedule, stop)
    assert schedule.up_to(stop) == wanted
    for step in range(-1, wanted[-1]):
        assert schedule.next_after(step) == next(s for s in wanted if s > step)


def test_a_list_ends():
    schedule = StepSchedule(steps=[3, 9])
    assert schedule.next_after(8) == 9
    assert schedule.next_after(9) is None


def test_next_after_is_exact_far_out():
    schedule = StepSchedule(per_decade=8)
    far = 10**15
    assert schedule.next_after(far - 1) == far
    assert schedule.next_after(far) == round(far * 10 ** (1 / 8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": "linear"}, r"steps='linear'.*'log', a list"),
        ({"steps": [3, 2]}, r"steps=\[3, 2\].*2 follows 3"),
        ({"steps": [2, 2]}, "2 follows 2"),
        ({"steps": [0, 2]}, "at least 1, and 0 is not"),
        ({"steps": [1.5]}, r"at least 1, and 1\.5 is not"),
        ({"steps": [True]}, "True is not"),
        ({"steps": []}, "has no step"),
        ({"steps": [1, 2], "start": 3}, "has no step from start=3"),
        ({"steps": 0}, "steps=0: expected a whole number of at least 1"),
        ({"steps": True}, "steps=True: expected a whole number"),
        ({"steps": 2.5}, r"steps=2\.5: expected 'log', a list.*one number for all of its multiples"),
        ({"steps": None}, "needs every"),
        ({"per_decade": 0}, "per_decade=0: expected a whole number"),
        ({"per_decade": 2.5}, r"per_decade=2\.5"),
        ({"start": 0}, "start=0"),
        ({"every": -5}, "every=-5"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        StepSchedule(**arguments)


@pytest.mark.parametrize("arguments", [{"per_decade": 0}, {"per_decade": 1, "start": 0}, {"per_decade": 1, "stop": 0}])
def test_bad_spacing_is_an_error_before_the_first_step_is_asked_for(arguments):
    with pytest.raises(ValueError, match="expected a whole number of at least 1"):
        log_spaced_steps(**arguments)
