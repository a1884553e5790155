"""Provisional and confirmed phases."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lightning_interp.decisions import Boundary, PhaseReading, PhaseState, PhaseTracker, describe


def at(step: float, width: float = 1.1) -> PhaseReading:
    return PhaseReading((Boundary(step, step / width, step * width),), True, "found")


NOTHING = PhaseReading((), True, "nothing")


def test_a_boundary_is_confirmed_by_three_readings_in_a_row_at_one_place() -> None:
    tracker = PhaseTracker(3)
    verdicts = [at(100), at(105), NOTHING, at(100), at(103), at(98)]
    assert [tracker.update(step, one).index for step, one in enumerate(verdicts)] == [0, 0, 0, 0, 0, 1]
    assert tracker.standing.boundaries[0].step == 98
    assert tracker.standing.fits


def test_a_boundary_that_wanders_is_never_confirmed() -> None:
    tracker = PhaseTracker(3)
    assert all(tracker.update(k, at(100 * 10 ** (k / 12))).index == 0 for k in range(20))
    assert "may be a boundary, seen at 2 of 3 readings" in tracker.standing.reason


def test_wide_intervals_count_for_at_most_a_factor_of_two() -> None:
    tracker = PhaseTracker(2)
    assert [tracker.update(k, at(step, 10)).index for k, step in enumerate((100, 250, 400))] == [0, 0, 1]


def test_a_confirmed_phase_stays_when_its_evidence_is_gone() -> None:
    tracker = PhaseTracker(2)
    for step in (1, 2):
        tracker.update(step, at(100))
    gone = tracker.update(3, NOTHING)
    assert (gone.index, gone.fits, gone.boundaries[0].step) == (1, False, 100)
    assert "the evidence for the phase that began at step 100 (91 to 110) is gone: nothing" in gone.reason
    moving = tracker.update(4, at(300))
    assert (moving.index, moving.fits, moving.boundaries[0].step) == (1, False, 100)
    assert "its place seems to be step 300" in moving.reason
    moved = tracker.update(5, at(300))
    assert (moved.index, moved.fits, moved.boundaries[0].step) == (1, True, 300)
    contradicted = tracker.update(6, PhaseReading((Boundary(300, 290, 310),), False, "no"))
    assert (contradicted.index, contradicted.fits) == (1, False)


def test_a_second_reading_at_one_step_takes_the_place_of_the_first() -> None:
    tracker = PhaseTracker(2)
    assert [tracker.update(step, at(100)).index for step in (1, 1, 1, 2)] == [0, 0, 0, 1]
    tracker.update(2, NOTHING)
    assert tracker.standing.index == 0


VERDICTS = st.lists(
    st.lists(st.sampled_from([20.0, 22.0, 50.0, 100.0, 110.0, 300.0]), max_size=3, unique=True).map(
        lambda steps: PhaseReading(tuple(Boundary(s, s / 1.1, s * 1.1) for s in sorted(steps)), True, "found")
    ),
    max_size=20,
)


@given(VERDICTS, st.integers(1, 4), st.data())
def test_phases_never_fall_and_survive_a_checkpoint(verdicts: list, confirm: int, draw: st.DataObject) -> None:
    cut = draw.draw(st.integers(0, len(verdicts)))
    whole, part = PhaseTracker(confirm), PhaseTracker(confirm)
    before = 0
    for step, verdict in enumerate(verdicts):
        if step == cut:
            state = part.state_dict()
            part = PhaseTracker(confirm)
            part.load_state_dict(state)
        found = whole.update(step, verdict)
        assert part.update(step, verdict) == found
        assert found.index >= before
        assert len(found.boundaries) == found.index
        steps = [one.step for one in found.boundaries]
        assert steps == sorted(steps)
        before = found.index


def test_describe() -> None:
    names = ("phase one", "phase two")
    assert describe(PhaseState(), names) == "phase one goes on: no reading yet"
    assert describe(PhaseState(0, (), False, "why"), names) == "phase one goes on: why"
    assert describe(PhaseState(0, (), False, "why", over=True), names) == "no second phase: why"
    seen = PhaseState(0, (), True, "why", provisional=Boundary(450.2, 380.1, 519.8))
    assert describe(seen, names) == "phase two seems to have begun at step 450, not confirmed yet: why"
    one = PhaseState(1, (Boundary(450.2, 380.1, 519.8),), True, "why")
    assert describe(one, names, 0.1) == "phase two began at step 450 (90 %: 380 to 520): why"


def early(step: float) -> PhaseReading:
    return PhaseReading((), True, "slowed down", early=(Boundary(step, step / 1.1, step * 1.1),))


def test_a_phase_is_provisional_at_two_readings_that_point_to_it_and_confirmed_later() -> None:
    tracker = PhaseTracker(3)
    verdicts = [NOTHING, early(100), early(103), early(101), at(100), at(100), at(101), at(102)]
    found = [tracker.update(step, one) for step, one in enumerate(verdicts)]
    assert [one.number for one in found] == [1, 1, 1, 1, 1, 1, 2, 2]
    assert [one.pointed_to for one in found] == [1, 1, 2, 2, 2, 2, 2, 2]
    assert (found[-1].pointed_at, found[-1].confirmed_at) == ((2,), (6,))
    assert found[-1].provisional is None


def test_a_provisional_phase_is_taken_back_after_three_readings_without_it() -> None:
    tracker = PhaseTracker(3)
    for step in (0, 1):
        tracker.update(step, early(100))
    found = [tracker.update(step, NOTHING).pointed_to for step in (2, 3, 4)]
    assert found == [2, 2, 1]
    assert tracker.standing.pointed_at == ()
    again = [tracker.update(step, early(100)).pointed_to for step in (5, 6)]
    assert (again, tracker.standing.pointed_at) == ([1, 2], (6,))


def test_a_place_that_wanders_is_not_even_provisional() -> None:
    tracker = PhaseTracker(3)
    assert all(tracker.update(k, early(100 * 10 ** (k / 6))).provisional is None for k in range(12))


def test_no_second_phase_is_a_verdict_of_three_readings() -> None:
    tracker = PhaseTracker(3)
    against = PhaseReading((), False, "nothing improves")
    assert [tracker.update(step, against).number for step in range(4)] == [1, 1, 0, 0]
    assert [tracker.update(step, at(100)).number for step in (4, 5, 6)] == [1, 1, 2]
    assert [tracker.update(step, against).over for step in (7, 8, 9)] == [False, False, True]
    assert tracker.standing.number == 2


def test_a_checkpoint_of_before_there_were_provisional_phases_loads() -> None:
    plain = {"step": 100.0, "low": 91.0, "high": 110.0}
    part = {
        "standing": {"current": 1, "boundaries": [plain], "fits": True, "reason": "found"},
        "candidates": [{"boundary": plain, "positions": [2.0, 2.0]}],
    }
    tracker = PhaseTracker(3)
    tracker.load_state_dict({"step": 7, **part, "before": None})
    assert (tracker.standing.number, tracker.standing.boundaries) == (2, (Boundary(**plain),))
    assert tracker.update(8, at(100)).number == 2
