"""From verdicts at reading after reading to a phase, first provisional and then confirmed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from typing import Any

from lightning_interp.decisions.curve import Boundary
from lightning_interp.decisions.templates import PhaseReading

__all__ = ["PhaseTracker", "PhaseState", "describe"]

_TOLERANCE = (0.1, 0.3)  # decades within which two positions of a knee agree, whatever their intervals


@dataclass(frozen=True)
class PhaseState:
    """Where the run stands.

    Args:
        index: The index of the phase, from 0; it never falls.
        boundaries: Confirmed beginnings of the phases 1 to ``index``.
        fits: Whether the readings agree with the template and still show the confirmed phases.
        reason: Why, in words.
        provisional: Where the next phase seems to have begun, before that is confirmed.
        pointed_at: The step of the reading from which on the evidence pointed to each phase after the first, the
            provisional one included.
        confirmed_at: The step of the reading that confirmed each of them.
        over: Whether enough readings in a row do not fit for that to be a verdict: there is no further phase, or the
            evidence for the present one is gone.

    """

    index: int = 0
    boundaries: tuple[Boundary, ...] = ()
    fits: bool = True
    reason: str = "no reading yet"
    provisional: Boundary | None = None
    pointed_at: tuple[int, ...] = ()
    confirmed_at: tuple[int, ...] = ()
    over: bool = False

    @property
    def number(self) -> int:
        """The phase as it is named, from 1; 0 where it is a verdict that there is no second one."""
        return self.index + 1 if self.index or not self.over else 0

    @property
    def pointed_to(self) -> int:
        """The phase, counted alike, to which the evidence points; :attr:`number` where nothing is provisional."""
        return self.number if self.provisional is None else self.index + 2


def describe(standing: PhaseState, names: Sequence[str], level: float = 0.05) -> str:
    """Where a run stands, in a sentence.

    Args:
        standing: Where it stands.
        names: A name for each phase.
        level: One minus the confidence of the boundaries' intervals.

    Example:
        >>> standing = PhaseState(1, (Boundary(450.0, 380.0, 520.0),), True, "val_loss has its plateau from there")
        >>> describe(standing, ["phase one", "phase two"])
        'phase two began at step 450 (95 %: 380 to 520): val_loss has its plateau from there'

    """
    if standing.provisional is not None:
        seen = f"{names[standing.index + 1]} seems to have begun at step {standing.provisional.step:.0f}"
        return f"{seen}, not confirmed yet: {standing.reason}"
    if standing.index:
        at = standing.boundaries[-1]
        place = f"step {at.step:.0f} ({100 * (1 - level):g} %: {at.low:.0f} to {at.high:.0f})"
        return f"{names[standing.index]} began at {place}: {standing.reason}"
    if standing.over:
        return f"no second phase: {standing.reason}"
    return f"{names[0]} goes on: {standing.reason}"


@dataclass
class _Candidate:
    boundary: Boundary
    positions: list[float]


@dataclass
class _State:
    """What is known after a reading."""

    standing: PhaseState = field(default_factory=PhaseState)
    candidates: list[_Candidate] = field(default_factory=list)
    early: list[_Candidate] = field(default_factory=list)
    missed: int = 0
    """Readings in a row that did not point to the provisional phase."""
    against: int = 0
    """Readings in a row that do not fit."""


@dataclass
class PhaseTracker:
    """Turns verdicts at reading after reading into a phase: one that is confirmed, and never falls.

    A boundary counts once it was found at ``confirm`` consecutive readings at positions that agree: they all lie within
    half its confidence interval, in log10(step), of at least 0.1 and at most 0.3. So a knee that wanders along with
    the newest reading is never confirmed.

    Before that, the next phase is provisional once ``early`` consecutive readings point to it at positions that agree;
    it no longer is where ``confirm`` readings in a row do not.

    A phase that was confirmed stays, since gates have acted on it. Where its evidence is gone later, ``fits`` is false
    and the reason says so; its boundary stays where it was last confirmed. Otherwise the boundary follows the fit.

    Args:
        confirm: Consecutive readings.
        early: Consecutive readings for a provisional phase.

    Example:
        >>> tracker = PhaseTracker(confirm=3)
        >>> knee = PhaseReading((Boundary(450.0, 380.0, 520.0),), True, "a plateau")
        >>> [tracker.update(step, knee).number for step in (500, 600, 700)]
        [1, 1, 2]
        >>> tracker.standing.pointed_at, tracker.standing.confirmed_at
        ((600,), (700,))
        >>> tracker.update(800, PhaseReading((), True, "no plateau")).reason
        'the evidence for the phase that began at step 450 (380 to 520) is gone: no plateau'

    """

    confirm: int = 3
    early: int = 2
    _now: _State = field(default_factory=_State, init=False)
    _step: int | None = field(default=None, init=False)
    _before: _State | None = field(default=None, init=False)

    @property
    def standing(self) -> PhaseState:
        """Where the run stands."""
        return self._now.standing

    def update(self, step: int, verdict: PhaseReading) -> PhaseState:
        """Take in the verdict at the next reading; a second one at the same step takes the place of the first."""
        before = self._before if step == self._step and self._before is not None else self._now
        self._step, self._before = step, before
        now = _State(
            candidates=[_followed(one, before.candidates, self.confirm) for one in verdict.boundaries],
            early=[_followed(one, before.early, self.early) for one in verdict.pointed_to],
        )
        confirmed = self._confirmed(step, verdict, before.standing, now.candidates)
        now.against = 0 if confirmed.fits else before.against + 1
        confirmed = replace(confirmed, over=now.against >= self.confirm)
        now.standing, now.missed = self._provisional(step, confirmed, before, now.early)
        self._now = now
        return now.standing

    def _confirmed(
        self, step: int, verdict: PhaseReading, before: PhaseState, candidates: Sequence[_Candidate]
    ) -> PhaseState:
        sure = tuple(one.boundary for one in takewhile(lambda one: len(one.positions) >= self.confirm, candidates))
        if len(sure) < before.index:
            last = before.boundaries[-1]
            if len(verdict.boundaries) >= before.index:
                why = f"its place seems to be {verdict.boundaries[before.index - 1]}: {verdict.reason}"
            else:
                why = f"the evidence for the phase that began at {last} is gone: {verdict.reason}"
            return replace(before, fits=False, reason=why)
        waiting = candidates[len(sure) :]
        reason = verdict.reason
        if waiting:
            seen = f"seen at {len(waiting[0].positions)} of {self.confirm} readings that it takes"
            reason = f"{waiting[0].boundary} may be a boundary, {seen}: {reason}"
        new = len(sure) - before.index
        return replace(
            before,
            index=len(sure),
            boundaries=sure,
            fits=verdict.fits,
            reason=reason,
            confirmed_at=(*before.confirmed_at, *[step] * new),
        )

    def _provisional(
        self, step: int, standing: PhaseState, before: _State, early: Sequence[_Candidate]
    ) -> tuple[PhaseState, int]:
        index = standing.index
        found = [one for one in early[index : index + 1] if len(one.positions) >= self.early]
        there = before.standing.provisional if before.standing.index == index else None
        missed = 0 if found or there is None else before.missed + 1
        place = found[0].boundary if found else there if missed < self.confirm else None
        pointed = before.standing.pointed_at[: index + (there is not None)]
        pointed = (*pointed, *[step] * (index + (place is not None) - len(pointed)))
        return replace(standing, provisional=place, pointed_at=pointed[: index + (place is not None)]), missed

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and words."""

        def plain(state: _State) -> dict[str, Any]:
            found = asdict(state)
            # A checkpoint that is loaded with `weights_only` gives lists where tuples were.
            for name in ("boundaries", "pointed_at", "confirmed_at"):
                found["standing"][name] = list(found["standing"][name])
            return found

        before = None if self._before is None else plain(self._before)
        return {"step": self._step, **plain(self._now), "before": before}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""

        def read(part: Mapping[str, Any]) -> _State:
            standing = dict(part["standing"])
            if "current" in standing:  # checkpoints of before there were provisional phases
                standing["index"] = standing.pop("current")
            standing["boundaries"] = tuple(Boundary(**one) for one in standing["boundaries"])
            for name in ("pointed_at", "confirmed_at"):
                standing[name] = tuple(standing.get(name, ()))
            provisional = standing.get("provisional")
            standing["provisional"] = None if provisional is None else Boundary(**provisional)
            candidates, early = (
                [_Candidate(Boundary(**one["boundary"]), list(one["positions"])) for one in part.get(name, ())]
                for name in ("candidates", "early")
            )
            return _State(PhaseState(**standing), candidates, early, part.get("missed", 0), part.get("against", 0))

        self._step, self._now = state["step"], read(state)
        self._before = None if state["before"] is None else read(state["before"])


def _followed(boundary: Boundary, before: Sequence[_Candidate], most: int) -> _Candidate:
    """A boundary with the positions at which it was found at the readings before, as far as they agree with it."""
    position = math.log10(boundary.step)
    width = math.log10(boundary.high / boundary.low) / 2 if boundary.low > 0 else 0.0
    near = min(max(width, _TOLERANCE[0]), _TOLERANCE[1])
    histories = [
        list(takewhile(lambda past: abs(past - position) <= near, reversed(one.positions)))[::-1] for one in before
    ]
    longest = max(histories, key=len, default=[])
    return _Candidate(boundary, [*longest, position][-most:])
