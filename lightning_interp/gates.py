"""Where a run stands and whether it should stop: decisions from readings alone, without a Trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from typing import Any

import numpy as np

from lightning_interp.functional.knees import KneeFit
from lightning_interp.functional.student import t_upper_tail

__all__ = [
    "TEMPLATES",
    "Boundary",
    "Improvement",
    "PatienceRule",
    "PhaseTracker",
    "Standing",
    "Track",
    "Verdict",
    "boundaries",
    "describe",
    "improvement",
    "judge",
    "lag",
    "plateau",
]

TEMPLATES: dict[str, tuple[str, ...]] = {
    "two_phase": ("phase one", "phase two"),
    "three_phase": ("warm-up collapse", "entropy-seeking", "compression-seeking"),
    "none": (),
}
"""The names of the phases that a template knows."""

SHARE = 0.05
"""An improvement below this share of all that was gained is none: for a plateau, per decade of steps."""
TAIL = 4
"""Readings after a plateau's beginning, from which it is told whether another key still improves."""
_TOLERANCE = (0.1, 0.3)  # decades within which two positions of a knee agree, whatever their intervals


@dataclass(frozen=True)
class Track:
    """The readings of one key so far, steps increasing, and the knees in them.

    Args:
        steps: Optimizer steps, at least 1.
        values: The values there, finite.
        mode: ``"max"`` where more is better, ``"min"`` where less is.
        fit: The segments through the values over log10(step); ``None`` where there are too few readings for one.

    """

    steps: Sequence[int]
    values: Sequence[float]
    mode: str = "max"
    fit: KneeFit | None = None

    @property
    def sign(self) -> float:
        """1 where more is better, else -1."""
        return 1.0 if self.mode == "max" else -1.0


@dataclass(frozen=True)
class Boundary:
    """Where one phase ends and the next begins: a step with its confidence interval."""

    step: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"step {self.step:.0f} ({self.low:.0f} to {self.high:.0f})"


@dataclass(frozen=True)
class Verdict:
    """What a template makes of the readings so far, before it is confirmed.

    Args:
        boundaries: Beginnings of the second, third, … phase.
        fits: Whether nothing contradicts the template.
        reason: Why, in words.

    """

    boundaries: tuple[Boundary, ...]
    fits: bool
    reason: str


@dataclass(frozen=True)
class Standing:
    """Where the run stands.

    Args:
        current: The index of the phase, from 0; it never falls.
        boundaries: Confirmed beginnings of the phases 1 to ``current``.
        fits: Whether the readings agree with the template and still show the confirmed phases.
        reason: Why, in words.

    """

    current: int = 0
    boundaries: tuple[Boundary, ...] = ()
    fits: bool = True
    reason: str = "no reading yet"


# ------------------------------------------------- what readings show


@dataclass(frozen=True)
class Improvement:
    """How a key went on after a step; see :func:`improvement`."""

    gain: float
    per_decade: float
    p_value: float
    noise: float
    noticeable: bool


def improvement(track: Track, since: float, level: float = 0.05, share: float = SHARE) -> Improvement | None:
    r"""Whether a key still improves after a step, beyond the noise of its readings.

    A straight line :math:`y = a + b x` through the readings with :math:`x = \log_{10}(\text{step}) \ge x_0` gives the
    gain :math:`g = \pm b\,(x_\text{last} - x_0)`, positive where the key becomes better. Neighbouring readings
    resemble each other, so with the autocorrelation :math:`\rho` of the key's residuals the standard error of b is
    multiplied by :math:`\sqrt{(1 + \rho)/(1 - \rho)}` and the number of readings n that the degrees of freedom
    :math:`n - 2` are taken from is divided by its square. It improves noticeably if all of these hold:

    - the one-sided test of b against 0 rejects at ``level``;
    - g is above twice the noise, the standard deviation of the key's readings around its own segments;
    - g is at least ``share`` of the range of these segments, from the run's beginning: a curve that has nearly ended
      its rise still rises significantly where readings have little noise.

    Args:
        track: The readings, with a fit.
        since: The step.
        level: Of the test.
        share: Of the range.

    Returns:
        The improvement, or ``None`` where fewer than four readings lie there or the key has no fit yet.

    """
    fit = track.fit
    x = np.log10(np.asarray(track.steps, dtype=np.float64))
    start = math.log10(since)
    there = x >= start
    n = int(there.sum())
    if fit is None or n < TAIL:
        return None
    tail, y = x[there], np.asarray(track.values, dtype=np.float64)[there]
    centred = tail - tail.mean()
    spread = float(centred @ centred)
    slope = float(centred @ y) / spread
    residual = y - y.mean() - slope * centred
    rho = min(max(fit.autocorrelation, 0.0), 0.9) if math.isfinite(fit.autocorrelation) else 0.0
    inflation = (1 + rho) / (1 - rho)
    error = math.sqrt(float(residual @ residual) / (n - 2) / spread * inflation)
    rate = track.sign * slope
    gain = rate * float(tail[-1] - start)
    p_value = t_upper_tail(rate / error, max(n / inflation - 2, 1.0)) if error > 0 else float(rate <= 0)
    whole = float(np.ptp(fit.fitted))
    noticeable = p_value < level and gain > 2 * fit.noise and gain > 0 and gain >= share * whole
    return Improvement(gain, rate, p_value, fit.noise, noticeable)


def plateau(track: Track, level: float = 0.05, share: float = SHARE) -> int | None:
    """The knee at which a key's plateau begins: from there on no segment improves noticeably, and the one before does.

    A segment improves noticeably if its slope is significantly in the right direction and is at least ``share`` of all
    that was gained so far, per decade of steps: with the default, where training ten times as long would bring less
    than another twentieth, that is a plateau. This is judged on the values themselves, not on their logarithm: a loss
    that falls from .006 to .001 is on its plateau. A loss that rises later (overfitting) keeps the plateau before it.

    Args:
        track: The readings, with a fit.
        level: Of the one-sided test of a slope.
        share: Of the largest gain between two ends of segments.

    Returns:
        Index into ``track.fit.knees``, or ``None``.

    """
    fit = track.fit
    if fit is None or not fit.knees:
        return None
    ends = np.log10([track.steps[0], track.steps[-1]])
    heights = track.sign * np.asarray(fit.predict(np.array([ends[0], *fit.knees, ends[1]])))
    gained = float(np.max(heights - np.minimum.accumulate(heights)))
    freedom = max(len(fit.fitted) - 2 - 2 * len(fit.knees), 1)
    improving = [
        track.sign * slope > 0
        and track.sign * slope >= share * gained
        and (not error > 0 or t_upper_tail(track.sign * slope / error, freedom) < level)
        for slope, error in zip(fit.slopes, fit.slope_errors, strict=True)
    ]
    last = max((index for index, yes in enumerate(improving) if yes), default=None)
    return last if last is not None and last < len(fit.knees) else None


def boundaries(fit: KneeFit | None) -> tuple[Boundary, ...]:
    """The knees of a fit as steps, with their intervals."""
    if fit is None:
        return ()
    found = []
    for index, knee in enumerate(fit.knees):
        low, high = fit.intervals[index] if index < len(fit.intervals) else (math.nan, math.nan)
        # An interval from a bootstrap may miss the estimate; without one, low and high are the knee itself.
        low, high = (min(low, knee), max(high, knee)) if math.isfinite(low) and math.isfinite(high) else (knee, knee)
        found.append(Boundary(float(10**knee), float(10**low), float(10**high)))
    return tuple(found)


def lag(track: Track, step: float) -> float | None:
    """How many decades of steps after a step the nearest knee of a key lies; negative if before; ``None`` without one.

    It is log10(knee / step).
    """
    if track.fit is None or not track.fit.knees:
        return None
    return float(min((knee - math.log10(step) for knee in track.fit.knees), key=abs))


# ------------------------------------------------- templates


def judge(
    template: str,
    loss: tuple[str, Track],
    improving: Mapping[str, Track] | None = None,
    follow: tuple[str, Track] | None = None,
    level: float = 0.05,
    share: float = SHARE,
) -> Verdict:
    """What a template makes of the readings so far.

    - ``"two_phase"``: the second phase begins at the loss's :func:`plateau` if at least one of the ``improving`` keys
      shows :func:`improvement` after it. The level of these tests is divided by the number of keys. The loss itself
      must not show it from there on, or the phase begins at a later knee: its mirror image is no second phase.
    - ``"three_phase"``: the followed key falls, rises, falls. A segment goes in a direction if its slope is
      significant; others belong to what came before. Contradicted by any other order or a fourth change.
    - ``"none"``: every knee of the loss begins a new phase.

    Args:
        template: One of the above.
        loss: Name and readings of the loss, or of a score.
        improving: Readings of what may improve after the plateau, by name.
        follow: Name and readings of the key whose shape ``"three_phase"`` describes.
        level: Of each test.
        share: See :func:`plateau` and :func:`improvement`.

    """
    if template == "two_phase":
        return _two_phase(*loss, improving or {}, level, share)
    if template == "three_phase":
        return _three_phase(*(follow or loss), level)
    if template == "none":
        found = boundaries(loss[1].fit)
        return Verdict(found, True, f"{loss[0]} has {len(found)} knee{'' if len(found) == 1 else 's'}")
    raise ValueError(f"template={template!r}: expected one of {list(TEMPLATES)}.")


def _two_phase(name: str, loss: Track, improving: Mapping[str, Track], level: float, share: float) -> Verdict:
    if loss.fit is None:
        return Verdict((), True, f"{name} has too few readings to look for a plateau ({len(loss.steps)})")
    index = plateau(loss, level, share)
    if index is None:
        return Verdict((), True, f"{name} has no plateau yet")
    index = _settled(loss, index, level, share)
    if index is None:
        return Verdict((), True, f"{name} has no plateau yet: it still improves noticeably, if slowly")
    start = boundaries(loss.fit)[index]
    at = f"{name} has its plateau from {start}"
    found = {
        key: improvement(track, start.step, level / max(len(improving), 1), share) for key, track in improving.items()
    }
    best = [(key, one) for key, one in found.items() if one is not None and one.noticeable]
    if best:
        key, one = min(best, key=lambda pair: pair[1].p_value)
        others = f" ({len(best) - 1} more do)" if len(best) > 1 else ""
        text = f"{key} still improves by {one.gain:.3g} after it, {one.per_decade:.3g} a decade of steps, {_p(one)}"
        return Verdict((start,), True, f"{name} has its plateau there; {text}{others}")
    waiting = [key for key, one in found.items() if one is None]
    if waiting:
        return Verdict((), True, f"{at}; too few readings of {', '.join(waiting)} to tell whether it still improves")
    told = "; ".join(
        f"{key} changes by {one.gain:+.3g} for the better ({_p(one)}, noise of a reading {one.noise:.2g})"
        for key, one in found.items()
        if one is not None
    )
    return Verdict((), False, f"{at}; nothing improves noticeably after it: {told or 'no key to look at'}")


def _settled(track: Track, first: int, level: float, share: float) -> int | None:
    """The first knee of a plateau from which on the key itself shows nothing of what is asked of others.

    A plateau is judged by decade and an improvement in all, so that a slow rise over decades could be both.
    """
    assert track.fit is not None
    for index in range(first, len(track.fit.knees)):
        after = improvement(track, float(10 ** track.fit.knees[index]), level, share)
        if after is None or not after.noticeable:
            return index
    return None


def _p(one: Improvement) -> str:
    return f"p = {one.p_value:.2g}" if one.p_value >= 1e-4 else "p < 0.0001"


_THREE = (-1, 1, -1)
_WORD = {-1: "falls", 1: "rises"}


def _three_phase(name: str, track: Track, level: float) -> Verdict:
    fit = track.fit
    if fit is None:
        return Verdict((), True, f"{name} has too few readings to look for phases ({len(track.steps)})")
    freedom = max(len(fit.fitted) - 2 - 2 * len(fit.knees), 1)
    runs: list[int] = []
    starts: list[Boundary] = []
    for start, slope, error in zip((None, *boundaries(fit)), fit.slopes, fit.slope_errors, strict=True):
        direction = int(math.copysign(1, slope)) if slope else 0
        if direction and error > 0 and 2 * t_upper_tail(abs(slope) / error, freedom) >= level:
            direction = 0
        if not direction or (runs and runs[-1] == direction):
            continue
        if runs and start is not None:
            starts.append(start)
        runs.append(direction)
    shape = ", ".join(_WORD[run] for run in runs) or "stays as it is"
    if tuple(runs) != _THREE[: len(runs)]:
        return Verdict((), False, f"{name} {shape}; expected: falls, rises, falls")
    where = " and ".join(str(start) for start in starts)
    return Verdict(tuple(starts), True, f"{name} {shape}{f', turning at {where}' if where else ''}")


def describe(standing: Standing, names: Sequence[str], level: float = 0.05) -> str:
    """Where a run stands, in a sentence.

    Args:
        standing: Where it stands.
        names: A name for each phase.
        level: One minus the confidence of the boundaries' intervals.

    Example:
        >>> standing = Standing(1, (Boundary(450.0, 380.0, 520.0),), True, "val_loss has its plateau from there")
        >>> describe(standing, ["phase one", "phase two"])
        'phase two began at step 450 (95 %: 380 to 520): val_loss has its plateau from there'

    """
    if standing.current:
        at = standing.boundaries[-1]
        place = f"step {at.step:.0f} ({100 * (1 - level):g} %: {at.low:.0f} to {at.high:.0f})"
        return f"{names[standing.current]} began at {place}: {standing.reason}"
    if standing.fits:
        return f"{names[0]} goes on: {standing.reason}"
    return f"no second phase: {standing.reason}"


# ------------------------------------------------- confirmation


@dataclass
class _Candidate:
    boundary: Boundary
    positions: list[float]


@dataclass
class PhaseTracker:
    """Turns verdicts at reading after reading into a phase: one that is confirmed, and never falls.

    A boundary counts once it was found at ``confirm`` consecutive readings at positions that agree: they all lie within
    half its confidence interval, in log10(step), of at least 0.1 and at most 0.3. So a knee that wanders along with
    the newest reading is never confirmed.

    A phase that was confirmed stays, since gates have acted on it. Where its evidence is gone later, ``fits`` is false
    and the reason says so; its boundary stays where it was last confirmed. Otherwise the boundary follows the fit.

    Args:
        confirm: Consecutive readings.

    Example:
        >>> tracker = PhaseTracker(confirm=2)
        >>> knee = Verdict((Boundary(450.0, 380.0, 520.0),), True, "a plateau")
        >>> tracker.update(500, knee).current, tracker.update(600, knee).current
        (0, 1)
        >>> tracker.update(700, Verdict((), True, "no plateau")).reason
        'the evidence for the phase that began at step 450 (380 to 520) is gone: no plateau'

    """

    confirm: int = 3
    standing: Standing = field(default_factory=Standing)
    _candidates: list[_Candidate] = field(default_factory=list, init=False)
    _step: int | None = field(default=None, init=False)
    _before: tuple[Standing, list[_Candidate]] | None = field(default=None, init=False)

    def update(self, step: int, verdict: Verdict) -> Standing:
        """Take in the verdict at the next reading; a second one at the same step takes the place of the first."""
        if step == self._step and self._before is not None:
            self.standing, self._candidates = self._before
        self._step, self._before = step, (self.standing, self._candidates)
        self._candidates = [self._follow(boundary) for boundary in verdict.boundaries]
        sure = tuple(
            one.boundary for one in takewhile(lambda one: len(one.positions) >= self.confirm, self._candidates)
        )
        before = self.standing
        if len(sure) >= before.current:
            waiting = self._candidates[len(sure) :]
            reason = verdict.reason
            if waiting:
                seen = f"seen at {len(waiting[0].positions)} of {self.confirm} readings that it takes"
                reason = f"{waiting[0].boundary} may be a boundary, {seen}: {reason}"
            self.standing = Standing(len(sure), sure, verdict.fits, reason)
        else:
            last = before.boundaries[-1]
            if len(verdict.boundaries) >= before.current:
                why = f"its place seems to be {verdict.boundaries[before.current - 1]}: {verdict.reason}"
            else:
                why = f"the evidence for the phase that began at {last} is gone: {verdict.reason}"
            self.standing = Standing(before.current, before.boundaries, False, why)
        return self.standing

    def _follow(self, boundary: Boundary) -> _Candidate:
        position = math.log10(boundary.step)
        width = math.log10(boundary.high / boundary.low) / 2 if boundary.low > 0 else 0.0
        near = min(max(width, _TOLERANCE[0]), _TOLERANCE[1])
        histories = [
            list(takewhile(lambda past: abs(past - position) <= near, reversed(one.positions)))[::-1]
            for one in self._candidates
        ]
        longest = max(histories, key=len, default=[])
        return _Candidate(boundary, [*longest, position][-self.confirm :])

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and words."""

        def plain(standing: Standing, candidates: Sequence[_Candidate]) -> dict[str, Any]:
            return {
                "standing": {**asdict(standing), "boundaries": [asdict(one) for one in standing.boundaries]},
                "candidates": [asdict(one) for one in candidates],
            }

        before = None if self._before is None else plain(*self._before)
        return {"step": self._step, **plain(self.standing, self._candidates), "before": before}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""

        def read(part: Mapping[str, Any]) -> tuple[Standing, list[_Candidate]]:
            standing = dict(part["standing"])
            standing["boundaries"] = tuple(Boundary(**one) for one in standing["boundaries"])
            candidates = [_Candidate(Boundary(**one["boundary"]), list(one["positions"])) for one in part["candidates"]]
            return Standing(**standing), candidates

        self._step = state["step"]
        self.standing, self._candidates = read(state)
        self._before = None if state["before"] is None else read(state["before"])


# ------------------------------------------------- stopping


@dataclass
class PatienceRule:
    """Stop when a value has not improved for a while.

    A reading improves if it is better than the best one by more than d, where d is ``min_delta`` itself
    (``delta="absolute"``), that share of the size of the best value (``"relative"``), or that many standard errors
    (``"se"``). A second reading at the same step takes the place of the first.

    Args:
        mode: ``"max"`` or ``"min"``.
        patience: Readings without improvement before it stops.
        patience_steps: Optimizer steps since the best value instead; a stop still comes with a reading.
        min_delta: See above.
        delta: ``"absolute"``, ``"relative"`` or ``"se"``.

    Example:
        >>> rule = PatienceRule("max", patience=2)
        >>> [rule.update(step, value)[0] for step, value in [(10, 0.5), (20, 0.7), (30, 0.6), (40, 0.7)]]
        [False, False, False, True]
        >>> rule.best_step
        20

    """

    mode: str = "max"
    patience: int = 5
    patience_steps: int | None = None
    min_delta: float = 0.0
    delta: str = "absolute"
    best_value: float | None = None
    best_step: int | None = None
    waited: int = 0
    _step: int | None = field(default=None, init=False)
    _before: tuple[float | None, int | None, int] = field(default=(None, None, 0), init=False)

    def update(self, step: int, value: float, se: float | None = None) -> tuple[bool, str | None]:
        """Take in the next reading.

        Args:
            step: Its optimizer step.
            value: The value, finite.
            se: Its standard error, for ``delta="se"``.

        Returns:
            Whether to stop, and what there is to say: why it stops, or what improved.

        """
        if step == self._step:
            self.best_value, self.best_step, self.waited = self._before
        self._step, self._before = step, (self.best_value, self.best_step, self.waited)
        if self.best_value is None or self.best_step is None:
            self.best_value, self.best_step, self.waited = value, step, 0
            return False, f"starts from {value:.4g}"
        gain = (value - self.best_value) * (1.0 if self.mode == "max" else -1.0)
        needed = self._needed(se)
        if gain > needed:
            old, self.best_value, self.best_step, self.waited = self.best_value, value, step, 0
            return False, f"improved from {old:.4g} to {value:.4g}"
        self.waited += 1
        more = f"by more than {needed:.3g} " if needed else ""
        best = f"best: {self.best_value:.4g} at step {self.best_step}"
        if self.patience_steps is not None:
            if step - self.best_step >= self.patience_steps:
                return True, f"did not improve {more}in {step - self.best_step} optimizer steps; {best}"
        elif self.waited >= self.patience:
            return True, f"did not improve {more}in {self.waited} readings; {best}"
        return False, None

    def _needed(self, se: float | None) -> float:
        if self.delta == "relative":
            return self.min_delta * abs(self.best_value or 0.0)
        if self.delta == "se":
            if se is None:
                raise ValueError("delta='se' needs the standard error of the reading.")
            return self.min_delta * se
        return self.min_delta

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers: what was seen, without the settings."""
        return {
            "best_value": self.best_value,
            "best_step": self.best_step,
            "waited": self.waited,
            "step": self._step,
            "before": list(self._before),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.best_value, self.best_step, self.waited = state["best_value"], state["best_step"], state["waited"]
        value, step, waited = state["before"]
        self._step, self._before = state["step"], (value, step, waited)
